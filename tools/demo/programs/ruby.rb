# frozen_string_literal: true

# Parse JSON into objects, group, sort, rewrite text and write JSON again.
require 'digest'
require 'json'

Entry = Struct.new(:id, :name, :tags, :scores, :parent)
input = File.read(ARGV[0])
rounds = ARGV[1].to_i

rounds.times do |round|
  entries = JSON.parse(input).map do |item|
    Entry.new(item['id'], item['name'], item['tags'], item['scores'], item['parent'])
  end
  by_tag = Hash.new { |hash, key| hash[key] = [] }
  entries.each { |entry| entry.tags.each { |tag| by_tag[tag] << entry } }
  best = by_tag.transform_values do |list|
    list.sort_by { |entry| [-entry.scores.sum, entry.id] }.first(20)
  end
  text = best.sort.map do |tag, list|
    "#{tag}: " + list.map { |entry| entry.name.gsub(/[aeiou]/) { |vowel| vowel.upcase } }.join(', ')
  end.join("\n")
  packed = JSON.generate(entries.map(&:to_h))
  puts "round #{round}: #{entries.size} entries, #{by_tag.size} tags, " \
       "#{Digest::SHA256.hexdigest(text + packed)}"
end
