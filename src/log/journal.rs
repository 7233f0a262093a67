//! What the queue's brain sees of the log.

/// Where a record lies in the log. Rises with every append; never reused in a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

/// A batch on its way to the disk. Rises by 1 from batch to batch of one process; commits happen in this order.
/// [`Ticket::DURABLE`] is older than all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

impl Ticket {
    /// The ticket of everything recovered at start.
    pub const DURABLE: Self = Self(0);
}

/// A record being read back from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadTicket(pub u64);

/// What the disk has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Everything.
    Open,
    /// Only records that finish or move work (acks, nacks, dead letters, relocations): the disk is full and the
    /// reserved segments are in use. Publishes are refused.
    Reserved,
}

/// The log as the queue's brain writes to it. Appending never blocks and never fails: what could go wrong is asked
/// before ([`Journal::room`]) or stops the process (a failed write).
pub trait Journal {
    /// Adds a record, the concatenation of `parts`, to the open batch. It may be answered for once
    /// [`Journal::open_ticket`], as it is now, is committed. Counts as live until released; a record that only
    /// cancels or amends an older one is released at once.
    fn append(&mut self, parts: &[&[u8]]) -> Position;

    /// The batch that the next [`Journal::append`] joins, and that the last ones of this turn joined: it changes only
    /// between turns. A batch to which nothing is appended may never be committed.
    fn open_ticket(&self) -> Ticket;

    /// Everything up to this ticket is committed: durable, or, where the log's durability is an interval, written and
    /// durable at most that much later.
    fn committed(&self) -> Ticket;

    /// Says, after a recovery and before the first append, that `len` bytes of the record at `position` are still
    /// needed. What is not retained is not live.
    fn retain(&mut self, _position: Position, _len: u32) {}

    /// Says that the record of `len` bytes at `position` is not needed for recovery any more. May come in parts whose
    /// lengths add up to the record's. What was appended before is durable before the record's bytes go.
    fn release(&mut self, position: Position, len: u32);

    /// What there is room for.
    fn room(&self) -> Room;

    /// Asks for `len` bytes of the record at `position`, starting `offset` bytes into it. They arrive later, through
    /// the owner of the log, in the order asked.
    fn read(&mut self, position: Position, offset: u32, len: u32) -> ReadTicket;
}
