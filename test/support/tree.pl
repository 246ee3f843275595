# A tree of processes, one for each shape given as an argument. Each process prints "SHAPE PID" when it is as
# it should be; the root prints "root PID" first and "ready" when all are there. Then all wait for a signal.
#
# The root heeds SIGTERM; with `trap` it prints "caught TERM" and goes on, with `deaf` it ignores it; `exit=N`:
# it exits when it has said "ready", and leaves the others behind.
#
# Perl, because it is there on every Debian and on macOS, and starts in 3 ms.
use strict;
use warnings;
use POSIX ();

# No zombies that are ours and not NetRunner's.
$SIG{CHLD} = 'IGNORE';

pipe(my $all_ready, my $not_ready) or die;

sub ignore { $SIG{$_} = 'IGNORE' for qw(TERM HUP INT QUIT) }

sub ready {
    my ($shape) = @_;
    syswrite STDOUT, "$shape $$\n";
    close $not_ready;
}

# A handler runs when a system call has come back, so a signal that comes right before a sleep(2) would be
# noticed at its end; sigsuspend(2) leaves no such gap.
sub stay {
    my $signals = POSIX::SigSet->new(POSIX::SIGTERM);
    POSIX::sigprocmask(POSIX::SIG_BLOCK, $signals);
    POSIX::sigsuspend(POSIX::SigSet->new) while 1;
}

sub child {
    my ($run) = @_;
    my $pid = fork // die "fork: $!";
    return if $pid;
    close $all_ready;
    $run->();
    stay();
}

my %shapes = (
    child      => sub { ready('child') },
    ignoring   => sub { ignore(); ready('ignoring') },
    grandchild => sub {
        ignore();
        child(sub { ready('grandchild') });
        ready('parent');
    },
    group   => sub { setpgrp(0, 0); ready('group') },
    session => sub {
        POSIX::setsid();
        child(sub { POSIX::setsid(); ignore(); ready('session_in_session') });
        ready('session');
    },
    daemon => sub {
        ignore();
        POSIX::setsid();
        child(sub { ready('daemon') });
        POSIX::_exit(0);
    },
    silent_daemon => sub {
        POSIX::setsid();
        child(
            sub {
                my $told = sub { open(STDIN, '<', '/dev/null'); open(STDERR, '>', '/dev/null') };
                $told->();
                ignore();
                syswrite STDOUT, "silent_daemon $$\n";
                open(STDOUT, '>', '/dev/null');
                close $not_ready;
            }
        );
        POSIX::_exit(0);
    },
    stopped => sub { ready('stopped'); kill STOP => $$ },
    # Never the same process for longer than a moment.
    hopping => sub {
        ready('hopping');
        while (1) {
            my $pid = fork // die "fork: $!";
            POSIX::_exit(0) if $pid;
            ignore();
            select(undef, undef, undef, 0.002);
        }
    },
);

my $exit;
my @shapes;
for my $argument (@ARGV) {
    if    ($argument eq 'trap')        { $SIG{TERM} = sub { syswrite STDOUT, "caught TERM\n" } }
    elsif ($argument eq 'deaf')        { ignore() }
    elsif ($argument =~ /^exit=(\d+)$/) { $exit = $1 }
    else                               { push @shapes, $argument }
}

syswrite STDOUT, "root $$\n";
for my $shape (@shapes) {
    my $run = $shapes{$shape} // die "no such shape: $shape";
    # What the root does with signals is its own affair.
    child(sub { $SIG{TERM} = 'DEFAULT' unless $SIG{TERM} && $SIG{TERM} eq 'IGNORE'; $run->() });
}
close $not_ready;
# End of file: nobody is unready.
1 while sysread $all_ready, my $nothing, 1;
syswrite STDOUT, "ready\n";
POSIX::_exit($exit) if defined $exit;
stay();
