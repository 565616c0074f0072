# Group a list of records by tag, rank the members, reshape, and turn text inside out.
. as $all
| (map(.tags[]) | unique) as $tags
| {
    records: length,
    tags: ($tags | length),
    by_tag: (
      [ $all[] | . as $r | .tags[]
        | { tag: ., id: $r.id, name: $r.name, total: ($r.scores | add) } ]
      | group_by(.tag)
      | map({ key: .[0].tag, value: (sort_by(-.total, .id) | .[:5] | map(.name)) })
      | from_entries
    ),
    names: (map(.name | explode | reverse | implode) | sort | unique | length),
    words: (
      map(.name | split(" ") | .[0]) | group_by(.) | map([.[0], length])
      | sort_by(-.[1], .[0]) | .[:20]
    ),
    checksum: (map(.scores | map(. * 3 + 1) | add) | add)
  }
