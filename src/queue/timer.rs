//! What a timer of the brain's wheel is for, as the number that the wheel keeps.
//!
//! Messages are the many: theirs is the lower half of all numbers. The rest share the upper half by its next two bits.

/// Who is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The message in this slot.
    Message(u32),
    /// The client with this number, whose grace period is over.
    Client(u32),
    /// The queue with this number, for a rate of which it may use more.
    Queue(u32),
    /// The namespace with this number, likewise.
    Namespace(u32),
    /// The schedules, the first of which may be due.
    Schedules,
    /// The sessions that an earlier boot had: they cannot be resumed any more.
    StartGrace,
}

const NOT_A_MESSAGE: u32 = 1 << 31;
const KIND_SHIFT: u32 = 29;
const NUMBER: u32 = (1 << KIND_SHIFT) - 1;
const CLIENT: u32 = 0b100;
const QUEUE: u32 = 0b101;
const NAMESPACE: u32 = 0b110;
const SCHEDULES: u32 = u32::MAX - 1;
const START_GRACE: u32 = u32::MAX;

impl Timer {
    pub(super) fn key(self) -> u32 {
        let (kind, number) = match self {
            Self::Message(slot) => {
                debug_assert!(slot < NOT_A_MESSAGE);
                return slot;
            }
            Self::Schedules => return SCHEDULES,
            Self::StartGrace => return START_GRACE,
            Self::Client(client) => (CLIENT, client),
            Self::Queue(queue) => (QUEUE, queue),
            Self::Namespace(namespace) => (NAMESPACE, namespace),
        };
        // Sessions, queues and namespaces are bounded far below half a thousand million.
        debug_assert!(number <= NUMBER);
        kind << KIND_SHIFT | number
    }

    pub(super) fn of(key: u32) -> Self {
        if key & NOT_A_MESSAGE == 0 {
            return Self::Message(key);
        }
        match key >> KIND_SHIFT {
            CLIENT => Self::Client(key & NUMBER),
            QUEUE => Self::Queue(key & NUMBER),
            NAMESPACE => Self::Namespace(key & NUMBER),
            _ if key == SCHEDULES => Self::Schedules,
            _ => Self::StartGrace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_as_it_was() {
        for number in [0, 1, 77, NUMBER] {
            for timer in [
                Timer::Message(number),
                Timer::Client(number),
                Timer::Queue(number),
                Timer::Namespace(number),
                Timer::Schedules,
                Timer::StartGrace,
            ] {
                assert_eq!(Timer::of(timer.key()), timer);
            }
        }
        assert_eq!(Timer::of(NOT_A_MESSAGE - 1), Timer::Message(NOT_A_MESSAGE - 1));
    }
}
