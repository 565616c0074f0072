-- A small shop: fill, index, join, group, search, change, delete, compact.
-- The table "size" holds one row, the number of orders.
PRAGMA journal_mode = MEMORY;
PRAGMA cache_size = -16000;
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, town TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, amount INTEGER, note TEXT);

BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT (SELECT orders / 20 FROM size))
INSERT INTO customers
  SELECT i, printf('customer %06x', i * 2654435761 % 16777213), printf('town %d', i * 7919 % 97)
  FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT (SELECT orders FROM size))
INSERT INTO orders
  SELECT i, 1 + i * 48271 % (SELECT orders / 20 FROM size), i * 69621 % 9973,
         printf('%.*c order %d', 10 + i % 90, char(97 + i % 26), i) FROM n;
COMMIT;

CREATE INDEX orders_customer ON orders (customer, amount);
CREATE INDEX orders_note ON orders (note);

SELECT town, count(*), sum(amount), max(amount)
  FROM customers JOIN orders ON customer = customers.id
  GROUP BY town ORDER BY 3 DESC LIMIT 20;
SELECT length(group_concat(note, '; ')) FROM orders WHERE amount % 7 = 3;
SELECT customer, amount, sum(amount) OVER (PARTITION BY customer ORDER BY amount, id) AS running
  FROM orders ORDER BY running DESC, customer LIMIT 10;
SELECT substr(note, 1, 4) AS head, count(DISTINCT customer) FROM orders
  GROUP BY head ORDER BY 2 DESC, 1 LIMIT 10;
SELECT json_array_length(json_group_array(json_object('id', id, 'note', note)))
  FROM orders WHERE id % 3 = 0;

UPDATE orders SET note = upper(note) || note WHERE id % 5 = 0;
DELETE FROM orders WHERE id % 4 = 1;
VACUUM;
PRAGMA integrity_check;
SELECT count(*), sum(length(note)), sum(amount) FROM orders;
