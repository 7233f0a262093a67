//! What a shard learns from how its commits and its mail follow each other.
//!
//! Where everybody waits for the same commit, nothing comes while it is written: it is calm. Where those who were answered
//! ask again at once, mail comes a moment after. Either is taken for granted after it was so a few times in a row, and no
//! longer after the first time that it was not.

/// What happened so many times in a row is expected again.
const TIMES_MIN: u32 = 4;
/// Only of commits this short, in microseconds: nothing else is done while the brain's thread writes one.
const SHORT_US_MAX: u64 = 1000;
/// How soon after an answer what follows it counts as prompt, in microseconds: two threads and a client wake up meanwhile.
const PROMPT_US_MAX: u64 = 250;

/// The rhythm of one shard, told of everything in microseconds of one clock.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// When the commit began that is or was the last one under way.
    started_us: u64,
    /// Mail came while it was being written.
    has_come: bool,
    /// Short commits in a row during which none came.
    calm_commits: u32,
    /// When a calm commit was done, until mail has come after it.
    answered_us: Option<u64>,
    /// Times in a row that it came promptly.
    prompt_returns: u32,
}

impl Rhythm {
    pub(super) fn commit_began(&mut self, now_us: u64) {
        self.started_us = now_us;
        self.has_come = false;
        self.answered_us = None;
    }

    /// Returns how long it took.
    pub(super) fn commit_done(&mut self, now_us: u64) -> u64 {
        let took_us = now_us - self.started_us;
        let is_calm = !self.has_come && took_us < SHORT_US_MAX;
        self.calm_commits = if is_calm { self.calm_commits.saturating_add(1) } else { 0 };
        self.answered_us = self.is_calm().then_some(now_us);
        took_us
    }

    pub(super) fn mail_came(&mut self, now_us: u64) {
        self.has_come = true;
        if let Some(answered_us) = self.answered_us.take() {
            let is_prompt = now_us <= answered_us + PROMPT_US_MAX;
            self.prompt_returns = if is_prompt { self.prompt_returns.saturating_add(1) } else { 0 };
        }
    }

    /// Whether nothing is likely to come while the next commit is written.
    pub(super) fn is_calm(&self) -> bool {
        self.calm_commits >= TIMES_MIN
    }

    /// Whether those who are answered are likely to come back at once, so that the sooner they are answered the more they do.
    pub(super) fn is_prompt(&self) -> bool {
        self.prompt_returns >= TIMES_MIN
    }

    /// Until when mail is likely to come from those who were just answered.
    pub(super) fn return_until_us(&self) -> Option<u64> {
        let answered_us = self.answered_us.filter(|_| self.is_prompt())?;
        Some(answered_us + PROMPT_US_MAX)
    }

    /// None did.
    pub(super) fn nobody_returned(&mut self) {
        self.answered_us = None;
        self.prompt_returns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commits of `took_us` each, and mail `gap_us` after each but the last. Returns the time it is then.
    fn commits(rhythm: &mut Rhythm, mut now_us: u64, times: u32, took_us: u64, gap_us: u64) -> u64 {
        for time in 0..times {
            if time > 0 {
                now_us += gap_us;
                rhythm.mail_came(now_us);
            }
            rhythm.commit_began(now_us);
            now_us += took_us;
            assert_eq!(rhythm.commit_done(now_us), took_us);
        }
        now_us
    }

    #[test]
    fn it_is_calm_after_a_few_short_commits_during_which_nothing_came() {
        let mut rhythm = Rhythm::default();
        let now_us = commits(&mut rhythm, 0, TIMES_MIN - 1, 100, 100);
        assert!(!rhythm.is_calm());
        let now_us = commits(&mut rhythm, now_us, 1, 100, 100);
        assert!(rhythm.is_calm());
        rhythm.commit_began(now_us);
        rhythm.mail_came(now_us + 50);
        rhythm.commit_done(now_us + 100);
        assert!(!rhythm.is_calm(), "something came");
        let now_us = commits(&mut rhythm, now_us + 100, TIMES_MIN, 100, 100);
        assert!(rhythm.is_calm());
        commits(&mut rhythm, now_us, 1, SHORT_US_MAX, 100);
        assert!(!rhythm.is_calm(), "a long one");
    }

    #[test]
    fn those_who_came_back_promptly_are_expected_to_until_they_do_not() {
        let mut rhythm = Rhythm::default();
        // Only what follows a calm commit is looked at.
        let now_us = commits(&mut rhythm, 0, 2 * TIMES_MIN - 1, 100, PROMPT_US_MAX);
        assert_eq!(rhythm.return_until_us(), None);
        let now_us = now_us + PROMPT_US_MAX;
        rhythm.mail_came(now_us);
        let now_us = commits(&mut rhythm, now_us, 1, 100, 0);
        assert_eq!(rhythm.return_until_us(), Some(now_us + PROMPT_US_MAX));
        rhythm.mail_came(now_us + 10);
        assert_eq!(rhythm.return_until_us(), None, "they are back");
        let now_us = commits(&mut rhythm, now_us + 10, 1, 100, 0);
        assert!(rhythm.return_until_us().is_some());
        rhythm.nobody_returned();
        assert_eq!(rhythm.return_until_us(), None);
        let now_us = commits(&mut rhythm, now_us, 1, 100, 0);
        assert_eq!(rhythm.return_until_us(), None, "and not at the next commit either");
        assert!(rhythm.is_calm());
        let now_us = commits(&mut rhythm, now_us, TIMES_MIN + 1, 100, 1);
        assert!(rhythm.return_until_us().is_some(), "again");
        rhythm.mail_came(now_us + PROMPT_US_MAX + 1);
        commits(&mut rhythm, now_us + PROMPT_US_MAX + 1, 1, 100, 0);
        assert_eq!(rhythm.return_until_us(), None, "once too late");
    }

    #[test]
    fn while_it_is_not_calm_nobody_is_waited_for() {
        let mut rhythm = Rhythm::default();
        commits(&mut rhythm, 0, 4 * TIMES_MIN, SHORT_US_MAX, 1);
        assert_eq!(rhythm.return_until_us(), None);
    }
}
