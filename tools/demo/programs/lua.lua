-- Trees, string building and tables that come and go: what a Lua program asks of malloc.
local depth, rounds = tonumber(arg[1]), tonumber(arg[2])

local function plant(level)
  if level == 0 then return { value = 1 } end
  return { left = plant(level - 1), right = plant(level - 1), value = level }
end

local function weigh(tree)
  if not tree.left then return tree.value end
  return tree.value + weigh(tree.left) + weigh(tree.right)
end

local kept, lines, sum = {}, {}, 0
for round = 1, rounds do
  local tree = plant(depth)
  kept[round % 4] = tree
  sum = sum + weigh(tree)
  local names = {}
  for i = 1, 2000 do
    names[i] = string.format("%s-%05d", ("x"):rep(i % 60), i * 7919 % 10007)
  end
  table.sort(names)
  local text = table.concat(names, "\n")
  lines[#lines + 1] = string.format("%d %d %d %s", round, #text, sum, names[round % #names + 1])
  sum = sum + select(2, text:gsub("x+", function(run) return #run .. "y" end))
end
print(table.concat(lines, "\n"))
print(sum)
