# Word statistics in Perl: hashes of arrays, regular expressions, sorting, string building.
use strict;
use warnings;

my ($input, $rounds) = @ARGV;
open my $file, '<', $input or die "$input: $!\n";
my @lines = <$file>;
close $file;

my $total = 0;
for my $round (1 .. $rounds) {
    my (%places, %follows);
    my $number = 0;
    for my $line (@lines) {
        $number++;
        my $before = '';
        while ($line =~ /([a-z]+)/g) {
            push @{ $places{$1} }, $number * $round;
            $follows{"$before $1"}++ if $before ne '';
            $before = $1;
        }
    }
    my @pairs = sort { $follows{$b} <=> $follows{$a} || $a cmp $b } keys %follows;
    my %lengths;
    $lengths{ length $_ } .= "$_," for sort keys %places;
    my $report = join "\n", map { "$_: " . join(' ', @{ $places{$_} }) } sort keys %places;
    (my $upper = $report) =~ s/\b([a-z])/\U$1/g;
    $total += length($upper) + unpack '%32C*', $upper;
    print "round $round: ", scalar(@pairs), " pairs, first '$pairs[0]' $follows{$pairs[0]}\n";
    print "$_ ", length $lengths{$_}, "\n" for sort { $a <=> $b } keys %lengths;
}
print "total $total\n";
