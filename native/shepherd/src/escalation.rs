//! When what is sent to a command that must end: a pure machine, which is told the time.

use std::time::{Duration, Instant};

/// Leftovers may end by themselves for so long.
const GRACE: Duration = Duration::from_millis(100);
/// The group is signalled first, and the descendants outside it so much later. Most commands are one group,
/// which ends at once: then nothing has to be looked for, which counts when the VM of 1,000 commands ends.
const OTHERS_AFTER: Duration = Duration::from_millis(10);
/// A program that looks whether it was told to hang up, and then waits for input, misses a SIGHUP that comes
/// between the two (bash does). A terminal that really goes away also ends the wait; ours stays open for the
/// output, so SIGHUP is said once more, when the program waits for certain.
const HANG_UP_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// SIGKILL is repeated, for a descendant can have been forked between looking and killing. Each repetition
/// doubles the pause up to the longest one; a child that ends makes the next one due at once.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// What lives so long after SIGKILL is reported.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(5);
/// It may be killed later, or have been stopped only, for others were still found (see `Hunt`).
const LONGEST_PAUSE_AFTER_THE_REPORT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Escalation {
    /// From the stop signals to SIGKILL. Zero: no stop signals.
    kill_timeout: Duration,
    /// SIGHUP is said once more.
    hangs_up: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is to be ended.
    Calm,
    Grace {
        until: Instant,
    },
    /// The sequence begins.
    Stop,
    /// The group has its stop signals; the others have them when `others_at` is `None`, and all have SIGHUP
    /// once more when `hang_up_at` is.
    Stopping {
        others_at: Option<Instant>,
        hang_up_at: Option<Instant>,
        kill_at: Instant,
    },
    /// The group has had SIGKILL; the others have when there is a `pause`.
    Killing {
        /// `None`: it was reported.
        report_at: Option<Instant>,
        again_at: Instant,
        pause: Option<Duration>,
    },
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    StopGroup,
    /// The descendants outside the group.
    StopOthers,
    HangUpAgain,
    KillGroup,
    /// The group, and the descendants outside it.
    KillAll,
    ReportUnkillable,
}

impl Escalation {
    pub(crate) fn new(kill_timeout: Duration) -> Escalation {
        Escalation { kill_timeout, hangs_up: false, phase: Phase::Calm }
    }

    /// SIGHUP is one of the stop signals, on a terminal.
    pub(crate) fn of_terminal(kill_timeout: Duration) -> Escalation {
        Escalation { hangs_up: true, ..Escalation::new(kill_timeout) }
    }

    /// The command must end. Saying so again changes nothing.
    pub(crate) fn stop(&mut self) {
        if let Phase::Calm | Phase::Grace { .. } = self.phase {
            self.phase = Phase::Stop;
        }
    }

    /// The command has exited, and what is left of it must end too.
    pub(crate) fn leftovers(&mut self, now: Instant) {
        if self.phase == Phase::Calm {
            self.phase = Phase::Grace { until: now + GRACE };
        }
    }

    /// A child has ended, or more descendants were found than were known: SIGKILL is due again.
    pub(crate) fn look_again(&mut self, now: Instant) {
        if let Phase::Killing { again_at, pause: Some(pause), .. } = &mut self.phase {
            *again_at = now;
            *pause = FIRST_PAUSE;
        }
    }

    /// The step that is due now; call it until there is none.
    pub(crate) fn step(&mut self, now: Instant) -> Option<Step> {
        let (phase, step) = match self.phase {
            Phase::Grace { until } if now >= until => self.begin(now),
            Phase::Stop => self.begin(now),
            Phase::Stopping { kill_at, .. } if now >= kill_at => kill_group(now),
            Phase::Stopping { others_at: Some(others_at), hang_up_at, kill_at } if now >= others_at => {
                (Phase::Stopping { others_at: None, hang_up_at, kill_at }, Step::StopOthers)
            }
            Phase::Stopping { others_at, hang_up_at: Some(hang_up_at), kill_at } if now >= hang_up_at => {
                (Phase::Stopping { others_at, hang_up_at: None, kill_at }, Step::HangUpAgain)
            }
            Phase::Killing { report_at: Some(report_at), again_at, pause } if now >= report_at => {
                (Phase::Killing { report_at: None, again_at, pause }, Step::ReportUnkillable)
            }
            Phase::Killing { report_at, again_at, pause } if now >= again_at => {
                let longest = report_at.map_or(LONGEST_PAUSE_AFTER_THE_REPORT, |_| LONGEST_PAUSE);
                let pause = pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(longest));
                (Phase::Killing { report_at, again_at: now + pause, pause: Some(pause) }, Step::KillAll)
            }
            _ => return None,
        };
        self.phase = phase;
        Some(step)
    }

    fn begin(&self, now: Instant) -> (Phase, Step) {
        if self.kill_timeout.is_zero() {
            return kill_group(now);
        }
        let others_at = Some(now + OTHERS_AFTER);
        let hang_up_at = self.hangs_up.then(|| now + HANG_UP_AGAIN_AFTER);
        (Phase::Stopping { others_at, hang_up_at, kill_at: now + self.kill_timeout }, Step::StopGroup)
    }

    /// When the next step is due; `None`: not before something happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Calm | Phase::Stop => None,
            Phase::Grace { until } => Some(until),
            Phase::Stopping { others_at, hang_up_at, kill_at } => {
                others_at.into_iter().chain(hang_up_at).chain([kill_at]).min()
            }
            Phase::Killing { report_at, again_at, .. } => report_at.into_iter().chain([again_at]).min(),
        }
    }
}

fn kill_group(now: Instant) -> (Phase, Step) {
    let report_at = Some(now + UNKILLABLE_AFTER);
    (Phase::Killing { report_at, again_at: now + OTHERS_AFTER, pause: None }, Step::KillGroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL_TIMEOUT: Duration = Duration::from_secs(3);
    const MS: Duration = Duration::from_millis(1);

    /// The steps that are due at a time, in order.
    fn steps(escalation: &mut Escalation, now: Instant) -> Vec<Step> {
        std::iter::from_fn(|| escalation.step(now)).collect()
    }

    /// What happens up to and with `end`, by the deadlines, and how long after `start`.
    fn run(escalation: &mut Escalation, start: Instant, end: Duration) -> Vec<(Duration, Step)> {
        let mut taken = Vec::new();
        while let Some(deadline) = escalation.deadline().filter(|deadline| *deadline <= start + end) {
            let due = steps(escalation, deadline);
            assert!(!due.is_empty(), "a deadline without a step");
            taken.extend(due.into_iter().map(|step| (deadline - start, step)));
        }
        taken
    }

    #[test]
    fn nothing_happens_by_itself() {
        let mut escalation = Escalation::new(KILL_TIMEOUT);
        let now = Instant::now();
        assert_eq!(steps(&mut escalation, now + UNKILLABLE_AFTER * 10), []);
        escalation.look_again(now);
        assert_eq!((steps(&mut escalation, now), escalation.deadline()), (vec![], None));
    }

    #[test]
    fn stop_signals_are_sent_once_and_sigkill_at_the_timeout() {
        let mut escalation = Escalation::new(KILL_TIMEOUT);
        let now = Instant::now();
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::StopGroup]);
        escalation.stop();
        escalation.look_again(now);
        escalation.leftovers(now);
        assert_eq!(
            run(&mut escalation, now, KILL_TIMEOUT + OTHERS_AFTER),
            [
                (OTHERS_AFTER, Step::StopOthers),
                (KILL_TIMEOUT, Step::KillGroup),
                (KILL_TIMEOUT + OTHERS_AFTER, Step::KillAll),
            ]
        );
    }

    #[test]
    fn a_terminal_hangs_up_once_more() {
        let mut escalation = Escalation::of_terminal(KILL_TIMEOUT);
        let now = Instant::now();
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::StopGroup]);
        assert_eq!(
            run(&mut escalation, now, KILL_TIMEOUT),
            [
                (OTHERS_AFTER, Step::StopOthers),
                (HANG_UP_AGAIN_AFTER, Step::HangUpAgain),
                (KILL_TIMEOUT, Step::KillGroup),
            ]
        );
    }

    #[test]
    fn a_kill_timeout_before_that_kills() {
        let mut escalation = Escalation::of_terminal(HANG_UP_AGAIN_AFTER / 2);
        let now = Instant::now();
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::StopGroup]);
        assert_eq!(
            run(&mut escalation, now, HANG_UP_AGAIN_AFTER / 2),
            [(OTHERS_AFTER, Step::StopOthers), (HANG_UP_AGAIN_AFTER / 2, Step::KillGroup)]
        );
    }

    #[test]
    fn without_a_timeout_it_kills_at_once() {
        let mut escalation = Escalation::new(Duration::ZERO);
        let now = Instant::now();
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::KillGroup]);
        assert_eq!(run(&mut escalation, now, OTHERS_AFTER), [(OTHERS_AFTER, Step::KillAll)]);
    }

    #[test]
    fn a_timeout_before_the_others_have_their_turn_kills() {
        let mut escalation = Escalation::new(OTHERS_AFTER / 2);
        let now = Instant::now();
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::StopGroup]);
        assert_eq!(run(&mut escalation, now, OTHERS_AFTER), [(OTHERS_AFTER / 2, Step::KillGroup)]);
    }

    #[test]
    fn leftovers_have_a_moment_before_the_stop_signals() {
        let mut escalation = Escalation::new(KILL_TIMEOUT);
        let now = Instant::now();
        escalation.leftovers(now);
        assert_eq!(
            run(&mut escalation, now, GRACE + KILL_TIMEOUT),
            [
                (GRACE, Step::StopGroup),
                (GRACE + OTHERS_AFTER, Step::StopOthers),
                (GRACE + KILL_TIMEOUT, Step::KillGroup),
            ]
        );
    }

    #[test]
    fn a_stop_ends_that_moment() {
        let mut escalation = Escalation::new(KILL_TIMEOUT);
        let now = Instant::now();
        escalation.leftovers(now);
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::StopGroup]);
    }

    /// Up to the first SIGKILL for all.
    fn killing(now: Instant) -> Escalation {
        let mut escalation = Escalation::new(Duration::ZERO);
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::KillGroup]);
        escalation.look_again(now);
        assert_eq!(steps(&mut escalation, now), [], "the group may be all there is");
        assert_eq!(steps(&mut escalation, now + OTHERS_AFTER), [Step::KillAll]);
        escalation
    }

    #[test]
    fn killing_is_repeated_with_growing_pauses_and_then_reported() {
        let now = Instant::now();
        let mut escalation = killing(now);
        let taken = run(&mut escalation, now, UNKILLABLE_AFTER);
        let (last, kills) = taken.split_last().unwrap();
        assert_eq!(*last, (UNKILLABLE_AFTER, Step::ReportUnkillable));
        assert!(kills.iter().all(|(_, step)| *step == Step::KillAll));
        let times: Vec<Duration> = kills.iter().map(|(time, _)| *time - OTHERS_AFTER).collect();
        assert_eq!(times[..4], [MS, 3 * MS, 7 * MS, 15 * MS]);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= LONGEST_PAUSE));
    }

    #[test]
    fn after_the_report_killing_goes_on() {
        let now = Instant::now();
        let mut escalation = killing(now);
        run(&mut escalation, now, UNKILLABLE_AFTER);
        let minute = Duration::from_secs(60);
        let kills = run(&mut escalation, now + UNKILLABLE_AFTER, minute);
        assert!(kills.iter().all(|(_, step)| *step == Step::KillAll), "reported once");
        assert!((60..70).contains(&kills.len()), "{}", kills.len());
        let later = now + UNKILLABLE_AFTER + minute;
        escalation.look_again(later);
        assert_eq!(escalation.deadline(), Some(later));
        assert_eq!(steps(&mut escalation, later), [Step::KillAll]);
    }

    /// As when the shepherd was stopped: the descendants outside the group have had nothing yet.
    #[test]
    fn a_report_that_is_due_before_the_first_sigkill_to_all_does_not_replace_it() {
        let now = Instant::now();
        let mut escalation = Escalation::new(Duration::ZERO);
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::KillGroup]);
        let late = now + UNKILLABLE_AFTER * 2;
        assert_eq!(steps(&mut escalation, late), [Step::ReportUnkillable, Step::KillAll]);
    }

    #[test]
    fn what_is_due_again_waits_for_a_later_time() {
        let now = Instant::now();
        let mut escalation = killing(now);
        let now = now + OTHERS_AFTER;
        let later = now + MS / 2;
        escalation.look_again(later);
        assert_eq!(steps(&mut escalation, now), []);
        assert_eq!(escalation.deadline(), Some(later));
        assert_eq!(steps(&mut escalation, later), [Step::KillAll]);
    }
}
