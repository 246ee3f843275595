//! When what is sent to a command that must end: a pure machine, which is told the time.

use std::time::{Duration, Instant};

/// Leftovers may end by themselves for so long.
const GRACE: Duration = Duration::from_millis(100);
/// SIGKILL is repeated, for a descendant can have been forked between looking and killing. Each repetition
/// doubles the pause up to the longest one; a child that ends makes the next one due at once.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// What lives so long after SIGKILL is reported.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Escalation {
    /// From the stop signals to SIGKILL. Zero: no stop signals.
    kill_timeout: Duration,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is to be ended.
    Calm,
    Grace {
        until: Instant,
    },
    /// The stop signals are due.
    Stop,
    /// They have been sent.
    Stopping {
        kill_at: Instant,
    },
    Killing {
        report_at: Instant,
        again_at: Instant,
        pause: Duration,
    },
    /// Reported; from now on only when a child ends.
    Reported {
        again_at: Option<Instant>,
    },
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    SendStopSignals,
    Kill,
    ReportUnkillable,
}

impl Escalation {
    pub(crate) fn new(kill_timeout: Duration) -> Escalation {
        Escalation { kill_timeout, phase: Phase::Calm }
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
        match &mut self.phase {
            Phase::Killing { again_at, pause, .. } => {
                *again_at = now;
                *pause = FIRST_PAUSE;
            }
            Phase::Reported { again_at } => *again_at = Some(now),
            Phase::Calm | Phase::Grace { .. } | Phase::Stop | Phase::Stopping { .. } => {}
        }
    }

    /// The step that is due now; call it until there is none.
    pub(crate) fn step(&mut self, now: Instant) -> Option<Step> {
        match self.phase {
            Phase::Grace { until } if now >= until => {
                self.phase = Phase::Stop;
                self.step(now)
            }
            Phase::Stop if self.kill_timeout.is_zero() => {
                self.phase = Phase::Stopping { kill_at: now };
                self.step(now)
            }
            Phase::Stop => {
                self.phase = Phase::Stopping { kill_at: now + self.kill_timeout };
                Some(Step::SendStopSignals)
            }
            Phase::Stopping { kill_at } if now >= kill_at => {
                self.phase = Phase::Killing {
                    report_at: now + UNKILLABLE_AFTER,
                    again_at: now + FIRST_PAUSE,
                    pause: FIRST_PAUSE,
                };
                Some(Step::Kill)
            }
            Phase::Killing { report_at, .. } if now >= report_at => {
                self.phase = Phase::Reported { again_at: None };
                Some(Step::ReportUnkillable)
            }
            Phase::Killing { report_at, again_at, pause } if now >= again_at => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                self.phase = Phase::Killing { report_at, again_at: now + pause, pause };
                Some(Step::Kill)
            }
            Phase::Reported { again_at: Some(again_at) } if now >= again_at => {
                self.phase = Phase::Reported { again_at: None };
                Some(Step::Kill)
            }
            _ => None,
        }
    }

    /// When the next step is due; `None`: not before something happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Calm | Phase::Stop => None,
            Phase::Reported { again_at } => again_at,
            Phase::Grace { until } => Some(until),
            Phase::Stopping { kill_at } => Some(kill_at),
            Phase::Killing { report_at, again_at, .. } => Some(report_at.min(again_at)),
        }
    }
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

    /// Goes from deadline to deadline, up to and with `end`.
    fn run(escalation: &mut Escalation, end: Instant) -> Vec<(Instant, Step)> {
        let mut taken = Vec::new();
        while let Some(deadline) = escalation.deadline().filter(|deadline| *deadline <= end) {
            taken.extend(steps(escalation, deadline).into_iter().map(|step| (deadline, step)));
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
    fn stop_sends_the_signals_once_and_kills_at_the_timeout() {
        let mut escalation = Escalation::new(KILL_TIMEOUT);
        let now = Instant::now();
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::SendStopSignals]);
        escalation.stop();
        escalation.look_again(now);
        escalation.leftovers(now);
        assert_eq!(steps(&mut escalation, now + KILL_TIMEOUT - MS), []);
        assert_eq!(escalation.deadline(), Some(now + KILL_TIMEOUT));
        assert_eq!(steps(&mut escalation, now + KILL_TIMEOUT), [Step::Kill]);
    }

    #[test]
    fn without_a_timeout_it_kills_at_once() {
        let mut escalation = Escalation::new(Duration::ZERO);
        escalation.stop();
        assert_eq!(steps(&mut escalation, Instant::now()), [Step::Kill]);
    }

    #[test]
    fn leftovers_have_a_moment_before_the_stop_signals() {
        let mut escalation = Escalation::new(KILL_TIMEOUT);
        let now = Instant::now();
        escalation.leftovers(now);
        assert_eq!(steps(&mut escalation, now + GRACE - MS), []);
        assert_eq!(escalation.deadline(), Some(now + GRACE));
        assert_eq!(steps(&mut escalation, now + GRACE), [Step::SendStopSignals]);
        assert_eq!(escalation.deadline(), Some(now + GRACE + KILL_TIMEOUT));
    }

    #[test]
    fn a_stop_ends_that_moment() {
        let mut escalation = Escalation::new(KILL_TIMEOUT);
        let now = Instant::now();
        escalation.leftovers(now);
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::SendStopSignals]);
    }

    #[test]
    fn killing_is_repeated_with_growing_pauses_and_then_reported() {
        let mut escalation = Escalation::new(Duration::ZERO);
        let now = Instant::now();
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::Kill]);
        let taken = run(&mut escalation, now + UNKILLABLE_AFTER * 2);
        let (last, kills) = taken.split_last().unwrap();
        assert_eq!(*last, (now + UNKILLABLE_AFTER, Step::ReportUnkillable));
        assert!(kills.iter().all(|(_, step)| *step == Step::Kill));
        let times: Vec<Duration> = kills.iter().map(|(time, _)| *time - now).collect();
        assert_eq!(times[..4], [MS, 3 * MS, 7 * MS, 15 * MS]);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= LONGEST_PAUSE));
        assert_eq!(escalation.deadline(), None, "no wake-ups for what cannot be killed");
    }

    #[test]
    fn what_is_due_again_waits_for_a_later_time() {
        let mut escalation = Escalation::new(Duration::ZERO);
        let now = Instant::now();
        escalation.stop();
        assert_eq!(steps(&mut escalation, now), [Step::Kill]);
        let later = now + MS / 2;
        escalation.look_again(later);
        assert_eq!(steps(&mut escalation, now), []);
        assert_eq!(escalation.deadline(), Some(later));
        assert_eq!(steps(&mut escalation, later), [Step::Kill]);
    }

    #[test]
    fn after_the_report_it_kills_only_when_a_child_ends() {
        let mut escalation = Escalation::new(Duration::ZERO);
        let now = Instant::now();
        escalation.stop();
        steps(&mut escalation, now);
        run(&mut escalation, now + UNKILLABLE_AFTER);
        let later = now + UNKILLABLE_AFTER * 3;
        assert_eq!(steps(&mut escalation, later), []);
        escalation.look_again(later);
        assert_eq!(escalation.deadline(), Some(later));
        assert_eq!(steps(&mut escalation, later), [Step::Kill]);
        assert_eq!(steps(&mut escalation, later + UNKILLABLE_AFTER), [], "reported once");
    }
}
