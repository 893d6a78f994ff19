//! What is measured, against what, and how the rows are called. Pure.

use std::fmt;

/// Operations per batch of the streams.
pub const BATCHES: [usize; 4] = [1, 16, 128, 1024];
/// That of the rows that are not named after a batch.
pub const HEADLINE: usize = 128;
/// Batches in flight, ours and theirs.
pub const IN_FLIGHT: usize = 8;
/// Callers of unary calls, and connections to redis-server.
pub const CALLERS: usize = 50;
/// Records per pipeline of redis-server's read-modify-write.
pub const UPDATES: usize = 128;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Forebay, state in memory.
    Memory,
    /// Forebay, state in RocksDB, durability `wal`.
    Rocks,
    /// redis-server that keeps nothing on disk.
    Redis,
    /// redis-server with an append-only file, synced every second.
    RedisAof,
    /// A hash map behind framed TCP, in a process of its own.
    Tcp,
    /// RocksDB in this process, with the options of ours.
    Embedded,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Memory, Self::Rocks, Self::Redis, Self::RedisAof, Self::Tcp, Self::Embedded];
    /// Those that are Forebay.
    pub const OURS: [Self; 2] = [Self::Memory, Self::Rocks];

    /// How long what is acknowledged survives, in the words of the product.
    pub fn durability(self) -> &'static str {
        match self {
            Self::Memory | Self::Redis | Self::Tcp => "none",
            Self::Rocks | Self::Embedded => "wal",
            Self::RedisAof => "everysec",
        }
    }

    /// Its name in an id.
    pub fn id(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Rocks => "rocks",
            Self::Redis => "redis",
            Self::RedisAof => "redis_aof",
            Self::Tcp => "tcp",
            Self::Embedded => "embedded",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// An operation. An append is of an element of the size of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Put,
    Get,
    Append,
    /// Puts and gets, as many of each.
    Mixed,
}

impl Op {
    /// Its name in an id.
    pub fn id(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Append => "append",
            Self::Mixed => "mixed",
        }
    }
}

/// How a record is read, modified and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// A round trip before the next record: the SDK without cache; GET, then SET.
    OneByOne,
    /// As fast as it goes: the SDK with its cache; pipelines of [`UPDATES`] GETs, then SETs.
    Many,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Batches of that many operations, [`IN_FLIGHT`] at a time.
    Stream(Op, usize),
    /// One operation a call, [`CALLERS`] at a time.
    Unary(Op),
    /// Read-modify-write by one worker.
    Update(Pace),
}

impl Work {
    /// The targets that it is measured on, in the order of that run.
    pub fn targets(self, run: usize) -> Vec<Target> {
        let reads_only = matches!(self, Self::Stream(Op::Get, _) | Self::Unary(Op::Get));
        let measured = |target: &Target| match target {
            Target::Memory | Target::Rocks | Target::Redis => true,
            // A log makes no difference to reads.
            Target::RedisAof => !reads_only,
            Target::Tcp => matches!(self, Self::Stream(Op::Mixed, _)),
            Target::Embedded => matches!(self, Self::Stream(Op::Put | Op::Get, HEADLINE)),
        };
        let mut targets: Vec<_> = Target::ALL.into_iter().filter(measured).collect();
        let turn = run % targets.len();
        targets.rotate_left(turn);
        targets
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(op, batch) => write!(f, "stream {} {batch}", op.id()),
            Self::Unary(op) => write!(f, "unary {}", op.id()),
            Self::Update(Pace::OneByOne) => f.write_str("read-modify-write one by one"),
            Self::Update(Pace::Many) => f.write_str("read-modify-write"),
        }
    }
}

/// Returns everything that is measured, in its order.
pub fn works() -> Vec<Work> {
    let streams = [Op::Put, Op::Get, Op::Append].into_iter();
    let mut works: Vec<_> = streams.flat_map(|op| BATCHES.map(|batch| Work::Stream(op, batch))).collect();
    works.push(Work::Stream(Op::Mixed, HEADLINE));
    works.extend([Op::Put, Op::Get].map(Work::Unary));
    works.extend([Pace::OneByOne, Pace::Many].map(Work::Update));
    works
}

/// Two measurements that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Its name in ratios.json.
    pub id: String,
    /// Forebay.
    pub ours: (Target, Work),
    /// The peer.
    pub theirs: (Target, Work),
}

/// Returns what is compared with what, in the order of the table.
pub fn comparisons() -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for target in Target::OURS {
        for work in works() {
            // The twin with a log is for writes that we log, too.
            let with_log = target == Target::Rocks && work.targets(0).contains(&Target::RedisAof);
            let peers: &[_] = if with_log { &[Target::Redis, Target::RedisAof] } else { &[Target::Redis] };
            for &peer in peers {
                for (id, their_work) in ids(target, work, peer) {
                    comparisons.push(Comparison { id, ours: (target, work), theirs: (peer, their_work) });
                }
            }
        }
    }
    comparisons.extend(headlines());
    comparisons
}

fn headlines() -> impl Iterator<Item = Comparison> {
    let stream = |op| Work::Stream(op, HEADLINE);
    let rows = [
        ("stream_memory_vs_redis", Target::Memory, Op::Mixed, Target::Redis),
        ("stream_memory_vs_tcp", Target::Memory, Op::Mixed, Target::Tcp),
        ("stream_rocks_vs_redis_aof", Target::Rocks, Op::Mixed, Target::RedisAof),
        ("stream_rocks_put_vs_embedded", Target::Rocks, Op::Put, Target::Embedded),
        ("stream_rocks_get_vs_embedded", Target::Rocks, Op::Get, Target::Embedded),
    ];
    rows.into_iter().map(move |(id, ours, op, theirs)| Comparison {
        id: id.to_owned(),
        ours: (ours, stream(op)),
        theirs: (theirs, stream(op)),
    })
}

fn ids(target: Target, work: Work, peer: Target) -> Vec<(String, Work)> {
    let (ours, theirs) = (target.id(), peer.id());
    match work {
        // Its rows are named by themselves.
        Work::Stream(Op::Mixed, _) => Vec::new(),
        Work::Stream(op, batch) => vec![(format!("stream_{ours}_{}_{batch}_vs_{theirs}", op.id()), work)],
        Work::Unary(op) => vec![(format!("unary_{ours}_{}_vs_{theirs}", op.id()), work)],
        Work::Update(Pace::OneByOne) => vec![(format!("sdk_{ours}_uncached_vs_{theirs}"), work)],
        Work::Update(Pace::Many) => vec![
            (format!("sdk_{ours}_cached_vs_{theirs}"), Work::Update(Pace::OneByOne)),
            (format!("sdk_{ours}_cached_vs_{theirs}_pipelined"), work),
        ],
    }
}
