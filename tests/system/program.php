<?php
// SPDX-License-Identifier: MIT
// What PHP's extensions do with memory, some of it allocated by PHP and freed by them, and the reverse.
$source = "<?php\n";
for ($i = 0; $i < 2000; $i++) {
    $source .= "function f$i(\$x) { return \"value $i: \" . strrev(\$x) . " . $i * 7 % 13 . "; }\n";
}
$counts = [];
foreach (PhpToken::tokenize($source) as $token) {
    $counts[$token->getTokenName()] = ($counts[$token->getTokenName()] ?? 0) + 1;
}
ksort($counts);
echo json_encode($counts), "\n";

$heap = new SplMinHeap();
$text = [];
for ($i = 0; $i < 20000; $i++) {
    $heap->insert(crc32("key $i"));
    $text[] = iconv('UTF-8', 'UTF-16LE', str_repeat('ä', $i % 50));
}
for ($sum = 0, $i = 0; !$heap->isEmpty(); $i++) {
    $sum = ($sum * 31 + $heap->extract()) % 1000000007;
}
echo $sum, ' ', md5(implode('', $text)), ' ', strlen(serialize($text)), "\n";

$drivers = PDO::getAvailableDrivers();
sort($drivers);
echo implode(',', $drivers), ' ', ctype_alnum('abc1') ? 'alnum' : 'no', ' ', posix_getpid() > 0, "\n";
$extensions = get_loaded_extensions();
sort($extensions);
echo implode(',', $extensions), "\n";
