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
