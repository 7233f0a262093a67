//! The names and numbers everything else is keyed by, each a type of its own so that no two can be mixed up.
//!
//! Names are checked once, where they enter the process, and cheap to clone from there on.

use std::fmt;
use std::sync::Arc;

use crate::limits;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no character.
    #[error("the {what} is empty; it needs 1 to {max} bytes")]
    Empty {
        /// Which name it was meant to be.
        what: &'static str,
        /// Longest allowed length in bytes.
        max: usize,
    },
    /// The name is longer than its limit.
    #[error("the {what} has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Which name it was meant to be.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// Longest allowed length in bytes.
        max: usize,
    },
    /// The name holds a character outside its alphabet.
    #[error("the {what} {name:?} holds {found:?}; allowed are {allowed}")]
    Character {
        /// Which name it was meant to be.
        what: &'static str,
        /// The name as given.
        name: String,
        /// The first character that is not allowed.
        found: char,
        /// What is allowed, in words.
        allowed: &'static str,
    },
    /// The name leads into another placement group.
    #[error(
        "the name {name:?} leads into a placement group; what is done crosses no shards, so a client has the queues and topics \
         of the group it came to: connect to the namespace TENANT:{group} (--namespace) and leave \":{group}/\" away"
    )]
    OtherGroup {
        /// The name as given.
        name: String,
        /// The group.
        group: String,
    },
}

fn check(
    what: &'static str,
    name: &str,
    max: usize,
    allowed: &'static str,
    is_allowed: fn(char) -> bool,
) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what, max });
    }
    if name.len() > max {
        return Err(NameError::TooLong { what, len: name.len(), max });
    }
    match name.chars().find(|&c| !is_allowed(c)) {
        Some(found) => Err(NameError::Character { what, name: name.to_owned(), found, allowed }),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:expr, $allowed:literal, $is_allowed:expr $(, $check:expr)?) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `name` against the alphabet and the length of this kind of name.
            ///
            /// # Errors
            /// [`NameError`] says what is wrong and what is allowed.
            pub fn parse(name: &str) -> Result<Self, NameError> {
                check($what, name, $max, $allowed, $is_allowed)?;
                $($check(name)?;)?
                Ok(Self(Arc::from(name)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::parse(name)
            }
        }
    };
}

name_type!(
    /// The tenant, and which of its placement groups where it has several: `fleet`, or `fleet:eu`. Every key in every table
    /// starts with it. A group has sessions, queues, topics and bounds of its own, all in one shard; the tenant's
    /// credential opens each.
    Namespace,
    "namespace",
    limits::NAMESPACE_BYTES_MAX,
    "a-z, 0-9, '.', '_' and '-', and one ':' before the name of a placement group",
    |c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-' | ':'),
    one_group
);

name_type!(
    /// The name a client chooses for itself, unique in its namespace.
    ClientId,
    "client id",
    limits::CLIENT_ID_BYTES_MAX,
    "printable ASCII without spaces and '/'",
    |c| c.is_ascii_graphic() && c != '/'
);

name_type!(
    /// A work queue, a mailbox (`device/<client id>`) or a topic (`topic/<name>`).
    QueueName,
    "queue name",
    limits::QUEUE_NAME_BYTES_MAX,
    "printable ASCII without spaces",
    |c| c.is_ascii_graphic(),
    own_group
);

name_type!(
    /// A schedule of a namespace.
    ScheduleName,
    "schedule name",
    limits::SCHEDULE_NAME_BYTES_MAX,
    "a-z, A-Z, 0-9, '.', '_' and '-'",
    |c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-')
);

/// A namespace is a tenant, or a tenant and one group of it.
fn one_group(name: &str) -> Result<(), NameError> {
    let Some((tenant, group)) = name.split_once(Namespace::GROUP) else { return Ok(()) };
    let allowed = "one ':' with a tenant before and a placement group behind it";
    let is_one = !tenant.is_empty() && !group.is_empty() && !group.contains(Namespace::GROUP);
    is_one.then_some(()).ok_or_else(|| NameError::Character {
        what: "namespace",
        name: name.to_owned(),
        found: Namespace::GROUP,
        allowed,
    })
}

/// A queue or a topic, or a pattern of topics, is of the group that its client came to.
///
/// # Errors
/// [`NameError::OtherGroup`].
pub(crate) fn own_group(name: &str) -> Result<(), NameError> {
    let place = name.strip_prefix(QueueName::TOPIC_PREFIX).unwrap_or(name);
    let other = place.strip_prefix(Namespace::GROUP).and_then(|place| place.split_once('/'));
    other.map_or(Ok(()), |(group, _)| {
        Err(NameError::OtherGroup { name: name.to_owned(), group: group.to_owned() })
    })
}

impl Namespace {
    /// The namespace of a client that names none.
    pub const DEFAULT: &'static str = "default";

    /// Before the name of a placement group.
    const GROUP: char = ':';

    /// Whose it is: the namespace without its placement group.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.0.split_once(Self::GROUP).map_or(&*self.0, |(tenant, _)| tenant)
    }

    /// Where it lies in a server of so many shards, at least 1. A data directory depends on it: this never changes.
    #[must_use]
    pub fn shard(&self, shards: u16) -> ShardId {
        // A remainder by `shards` fits.
        ShardId((crc32c::crc32c(self.0.as_bytes()) % u32::from(shards.max(1))) as u16)
    }
}

/// One shard of this process, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ShardId(pub u16);

impl ShardId {
    /// Its place among the shards.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The first of the numbers that this shard gives to what no other shard may give the same number.
    #[must_use]
    pub const fn first_number(self) -> u64 {
        (self.0 as u64) << 48
    }
}

const _: () = assert!(
    QueueName::MAILBOX_PREFIX.len() + limits::CLIENT_ID_BYTES_MAX <= limits::QUEUE_NAME_BYTES_MAX,
    "a mailbox name must fit a queue name"
);

impl QueueName {
    /// What every mailbox name starts with; the rest is the client id.
    pub const MAILBOX_PREFIX: &'static str = "device/";

    /// What every topic starts with; the rest is its name.
    pub const TOPIC_PREFIX: &'static str = "topic/";

    /// The name of the topic that this is, or `None` for what keeps messages.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.0.strip_prefix(Self::TOPIC_PREFIX)
    }

    /// The mailbox of one client.
    #[must_use]
    pub fn mailbox(client: &ClientId) -> Self {
        Self(Arc::from(format!("{}{client}", Self::MAILBOX_PREFIX)))
    }

    /// The client id whose mailbox this is, or `None` for another queue.
    #[must_use]
    pub fn mailbox_owner(&self) -> Option<&str> {
        self.0.strip_prefix(Self::MAILBOX_PREFIX)
    }
}

/// Which event loop of this process. [`LoopId::OPERATOR`] stands for the admin API, which speaks to the
/// shard over a lane of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopId(pub u16);

impl LoopId {
    /// The lane of the operator API.
    pub const OPERATOR: Self = Self(u16::MAX);
}

/// One connection: a slot of a loop's slab and the generation that tells the slot's tenants apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// The loop that holds the connection.
    pub loop_id: LoopId,
    /// Its place in the loop's slab.
    pub slot: u32,
    /// Rises each time the slot is given to another connection.
    pub generation: u32,
}

/// A message of this shard, numbered from 1 in the order of arrival, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often this data directory was served, counted durably before the first accept. From 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Boot(pub u32);

/// The right to work on one attempt at a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId {
    /// The message.
    pub message: MessageId,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The boot that gave the lease.
    pub boot: Boot,
}

/// Rises with every connection of a client: (boot generation, counter), so that it never repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The `counter`-th epoch given in `boot`.
    #[must_use]
    pub const fn new(boot: Boot, counter: u32) -> Self {
        Self((boot.0 as u64) << 32 | counter as u64)
    }

    /// The boot that gave this epoch.
    #[must_use]
    pub const fn boot(self) -> Boot {
        Boot((self.0 >> 32) as u32)
    }
}

/// One producer, chosen at random by it; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerId(pub u64);

/// A topic of a namespace while somebody is subscribed to it; never given again while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub u64);

/// The client's own number for one of its subscriptions, unique in its connection. From 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_tenant_or_one_group_of_it() {
        for (name, tenant) in [("fleet", "fleet"), ("fleet:eu", "fleet"), ("a.b-c_1:2.x", "a.b-c_1")] {
            assert_eq!(Namespace::parse(name).unwrap().tenant(), tenant);
        }
        for name in [":eu", "fleet:", ":", "fleet:eu:west", "fleet:EU", "", "fleet/eu"] {
            assert!(Namespace::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_queue_of_another_group_is_refused_with_the_remedy() {
        for name in [":eu/orders", "topic/:eu/orders.new"] {
            let error = QueueName::parse(name).unwrap_err().to_string();
            assert!(error.contains("connect to the namespace TENANT:eu"), "{error}");
        }
        for name in ["orders", "app:orders", ":orders", "device/a:b/c"] {
            assert!(QueueName::parse(name).is_ok(), "{name}");
        }
    }

    /// Data directories depend on it.
    #[test]
    fn where_a_namespace_lies_never_changes() {
        let shard = |name: &str, shards| Namespace::parse(name).unwrap().shard(shards).0;
        let of = |shards| ["default", "fleet", "fleet:eu", "fleet:us", "a"].map(|name| shard(name, shards));
        assert_eq!(of(1), [0; 5]);
        assert_eq!(of(0), [0; 5], "no shard is taken for one");
        assert_eq!((of(4), of(64)), ([1, 3, 2, 3, 0], [37, 11, 34, 11, 48]));
        let mut counts = [0; 8];
        (0..8000).for_each(|tenant| counts[usize::from(shard(&format!("tenant-{tenant}"), 8))] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
