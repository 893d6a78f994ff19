//! Shards and snapshots that another engine owns, in the head. Pure.
//!
//! The engine orders its openings by tokens (Flink: attempt numbers). An opening takes over whatever overlaps it under
//! a lower token, and none is ever taken over by a lower one: what is closed leaves a fence. A registered snapshot
//! keeps its files until it is discarded. See semantics.md, section 11.

use forebay_proto::{
    key_group::{KeyGroupRange, MaxParallelism},
    reason::Refused,
    v1,
};
use v1::{BasePolicy, ErrorReason as Reason, ExternalVerdict as Verdict};

use super::{descriptors, round::Round, spec};

/// Snapshots that a head registers at most: it has to stay below its largest size.
const REGISTERED_MAX: usize = 3_000;
/// Parts that a shard is opened from at most.
const PARTS_MAX: usize = 256;
/// Longest id of an engine, in bytes.
const ID_BYTES_MAX: usize = 256;
/// Most bytes that an engine gives along with a snapshot.
pub const USER_BYTES_MAX: usize = 64 << 10;

/// An opening that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Opening {
    /// The operator.
    pub operator: String,
    /// First key group.
    pub start: u32,
    /// End of the key groups.
    pub end: u32,
    /// Orders it among the openings.
    pub token: u64,
    /// What it is restored from: registered snapshots.
    pub parts: Vec<v1::ExternalPart>,
    /// States that will be used.
    pub states: Vec<v1::StateDescriptor>,
}

/// What an engine wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// A shard.
    Open(Opening),
    /// A shard is not needed any more: its address and token.
    Close(v1::ExternalShard, u64),
    /// A snapshot of a shard that its server has frozen.
    Take(v1::TakeSnapshotRequest),
    /// Not to have a snapshot any more that is not taken yet: shard, token and id.
    Cancel(v1::ExternalShard, u64, String),
    /// To say what became of a checkpoint: shard, token and id.
    Judge(v1::ExternalShard, u64, String, Verdict),
    /// Not to have a snapshot any more: its manifest.
    Discard(String),
}

/// True if an operator's shards are opened by another engine.
pub fn is_external(spec: &v1::JobSpec, operator: &str) -> bool {
    spec::access(Some(spec), operator) == Some(v1::Access::External)
}

/// Checks a shard's address against the job.
pub fn check(head: &v1::JobHead, shard: &v1::ExternalShard) -> Result<KeyGroupRange, Refused> {
    let spec = head.spec.clone().unwrap_or_default();
    let job = &spec.name;
    if !shard.job_uid.is_empty() && shard.job_uid != head.job_uid {
        let message =
            format!("job {job:?} has uid {}, the request says {}: it was made anew", head.job_uid, shard.job_uid);
        return Err(Refused::new(Reason::JobUnknown, message));
    }
    if !is_external(&spec, &shard.operator) {
        let message =
            format!("job {job:?} has no external operator {:?}: create it with access external", shard.operator);
        return Err(Refused::new(Reason::OperatorUnknown, message).field("shard.operator"));
    }
    let max = MaxParallelism::new(spec.max_parallelism).unwrap_or_default().get();
    KeyGroupRange::new(shard.start, shard.end).ok().filter(|range| range.end() <= max).ok_or_else(|| {
        let message = format!("key groups [{},{}): the job has [0,{max})", shard.start, shard.end);
        Refused::new(Reason::KeyGroupOutOfRange, message).field("shard.start")
    })
}

/// What is taken of the snapshots that a shard is opened from: each clipped to what is asked for, what it holds and
/// the shard. Parts of which nothing is left, and snapshots of shards that held nothing, are left out.
pub fn parts(
    job_uid: &str,
    operator: &str,
    range: KeyGroupRange,
    asked: &[v1::RestorePart],
) -> Result<Vec<v1::ExternalPart>, Refused> {
    let invalid = |index: usize, message: String| {
        Refused::new(Reason::FieldInvalid, format!("restore[{index}]: {message}")).field("restore")
    };
    if asked.len() > PARTS_MAX {
        return Err(invalid(PARTS_MAX, format!("{} parts: at most {PARTS_MAX}", asked.len())));
    }
    let mut parts: Vec<v1::ExternalPart> = Vec::new();
    for (index, part) in asked.iter().enumerate() {
        let handle = part.handle.clone().unwrap_or_default();
        let snapshot = handle.snapshot.ok_or_else(|| invalid(index, "the handle holds no snapshot".into()))?;
        if handle.job_uid != job_uid || snapshot.operator != operator {
            let message = format!(
                "the snapshot is of operator {:?} of job {:?} ({}), the shard of operator {operator:?} of {job_uid}: rows \
                 are kept by the job's and operator's own states",
                snapshot.operator, handle.job, handle.job_uid
            );
            return Err(invalid(index, message));
        }
        let held = KeyGroupRange::new(snapshot.start, snapshot.end)
            .map_err(|error| invalid(index, format!("the handle's key groups: {error}")))?;
        let clip = if part.end == 0 { Ok(range) } else { KeyGroupRange::new(part.start, part.end) };
        let clip = clip.map_err(|error| invalid(index, error.to_string()))?;
        let Some(taken) = held.intersection(range).and_then(|taken| taken.intersection(clip)) else { continue };
        let (start, end) = (taken.start(), taken.end());
        if let Some(other) = parts.iter().find(|other| other.start < end && start < other.end) {
            let message = format!(
                "[{start},{end}) overlaps [{},{}) of another part: say what is taken of each",
                other.start, other.end
            );
            return Err(invalid(index, message));
        }
        if snapshot.files > 0 {
            let snapshot = v1::ExternalSnapshot { verdict: Verdict::Unspecified.into(), ..snapshot };
            parts.push(v1::ExternalPart { snapshot: Some(snapshot), start, end });
        }
    }
    parts.sort_by_key(|part| part.start);
    Ok(parts)
}

/// Opens a shard, and returns the epoch of its writer, which no other opening has. The same token again for the same
/// shard is the same opening and changes nothing.
pub fn open(next: &mut v1::JobHead, opening: &Opening) -> Result<u64, Refused> {
    let Opening { operator, start, end, token, .. } = opening;
    let overlaps = |of: &str, from: u32, to: u32| of == operator && from < *end && *start < to;
    let fences = next.external_fences.iter().map(|fence| (&fence.operator, fence.start, fence.end, fence.token));
    let fenced = fences.filter(|(of, from, to, _)| overlaps(of, *from, *to)).map(|(.., token)| token).max();
    let open = next.shards.iter().filter_map(|entry| Some((entry, entry.external.as_ref()?)));
    let open: Vec<_> = open.filter(|(entry, _)| overlaps(&entry.operator, entry.start, entry.end)).collect();
    let highest = open.iter().map(|(_, opening)| opening.token).max().max(fenced);
    if let Some(highest) = highest.filter(|highest| highest > token) {
        return Err(stale(operator, *start, *end, *token, highest));
    }
    if let Some((entry, known)) = open.iter().find(|(_, known)| known.token == *token) {
        if (entry.start, entry.end) != (*start, *end) || known.restore != opening.parts {
            let message = format!(
                "token {token} has opened {operator} [{},{}) {}: open it the same way, or take a higher token",
                entry.start,
                entry.end,
                if known.restore == opening.parts { "already" } else { "from other snapshots" }
            );
            return Err(Refused::new(Reason::AlreadyExists, message));
        }
        let epoch = entry.writer_epoch;
        return descriptors::register(next, operator, &opening.states).map(|_| epoch);
    }
    if fenced == Some(*token) {
        let message =
            format!("token {token} has opened and closed key groups of {operator} [{start},{end}): take a higher one");
        return Err(Refused::new(Reason::WriterFenced, message).with("token", token));
    }
    for snapshot in opening.parts.iter().filter_map(|part| part.snapshot.as_ref()) {
        if registered(next, &snapshot.manifest).is_none() {
            return Err(unknown(snapshot));
        }
    }
    let taken: Vec<_> = open.iter().map(|(entry, _)| (entry.start, entry.end)).collect();
    descriptors::register(next, operator, &opening.states)?;
    for (start, end) in taken {
        shut(next, operator, start, end);
    }
    next.next_external_epoch += 1;
    let epoch = next.next_external_epoch;
    next.shards.push(v1::ShardEntry {
        operator: operator.clone(),
        start: *start,
        end: *end,
        epoch,
        writer_epoch: epoch,
        external: Some(v1::ExternalOpening { token: *token, restore: opening.parts.clone() }),
        ..Default::default()
    });
    next.shards.sort_by(|one, other| (&one.operator, one.start).cmp(&(&other.operator, other.start)));
    Ok(epoch)
}

/// Closes a shard; one that is closed already, or was taken over, is none of the caller's any more.
pub fn close(next: &mut v1::JobHead, operator: &str, start: u32, end: u32, token: u64) -> Result<(), Refused> {
    match entry(next, operator, start, end) {
        Some((_, opening)) if opening.token > token => Err(stale(operator, start, end, token, opening.token)),
        Some((_, opening)) if opening.token == token => {
            shut(next, operator, start, end);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Removes a shard, and leaves a fence.
fn shut(next: &mut v1::JobHead, operator: &str, start: u32, end: u32) {
    let Some((_, opening)) = entry(next, operator, start, end) else { return };
    let token = opening.token;
    next.shards.retain(|entry| (&entry.operator[..], entry.start, entry.end) != (operator, start, end));
    // What is fenced there by now is not higher: this shard could not have been opened.
    let (inside, mut fences): (Vec<_>, Vec<_>) = std::mem::take(&mut next.external_fences)
        .into_iter()
        .partition(|fence| fence.operator == operator && fence.start < end && start < fence.end);
    for fence in inside {
        let (left, right) = ((fence.start, fence.end.min(start)), (fence.start.max(end), fence.end));
        let rest = [left, right].into_iter().filter(|(start, end)| start < end);
        fences.extend(rest.map(|(start, end)| v1::ExternalFence { start, end, ..fence.clone() }));
    }
    fences.push(v1::ExternalFence { operator: operator.to_owned(), start, end, token });
    fences.sort_by(|one, other| (&one.operator, one.start).cmp(&(&other.operator, other.start)));
    next.external_fences = fences;
}

/// The open shard of exactly these key groups.
pub fn entry<'a>(
    head: &'a v1::JobHead,
    operator: &str,
    start: u32,
    end: u32,
) -> Option<(&'a v1::ShardEntry, &'a v1::ExternalOpening)> {
    let same = |entry: &&v1::ShardEntry| (&entry.operator[..], entry.start, entry.end) == (operator, start, end);
    head.shards.iter().find(same).and_then(|entry| Some((entry, entry.external.as_ref()?)))
}

/// Checks that a snapshot can be taken, and returns the shard.
pub fn may_take<'a>(head: &'a v1::JobHead, request: &v1::TakeSnapshotRequest) -> Result<&'a v1::ShardEntry, Refused> {
    let shard = request.shard.clone().unwrap_or_default();
    let range = check(head, &shard)?;
    if request.external_id.is_empty() || request.external_id.len() > ID_BYTES_MAX {
        let message = format!("external_id has {} bytes: 1 to {ID_BYTES_MAX}", request.external_id.len());
        return Err(Refused::new(Reason::FieldInvalid, message).field("external_id"));
    }
    if request.user_bytes.len() > USER_BYTES_MAX {
        let message = format!("user_bytes has {} bytes: at most {USER_BYTES_MAX}", request.user_bytes.len());
        return Err(Refused::new(Reason::FieldInvalid, message).field("user_bytes"));
    }
    if head.external_snapshots.len() >= REGISTERED_MAX {
        let message = format!("{REGISTERED_MAX} external snapshots of the job are registered: discard some");
        return Err(Refused::new(Reason::Quota, message));
    }
    let (operator, start, end) = (&shard.operator, range.start(), range.end());
    match entry(head, operator, start, end) {
        Some((entry, opening)) if opening.token == request.token => Ok(entry),
        Some((_, opening)) => Err(stale(operator, start, end, request.token, opening.token)),
        None => {
            let message = format!("no shard of {operator} [{start},{end}) is open: open it, or restore");
            Err(Refused::new(Reason::ShardUnknown, message))
        }
    }
}

/// The registered snapshot of an opening under an id of the engine.
pub fn taken<'a>(
    head: &'a v1::JobHead,
    shard: &v1::ExternalShard,
    token: u64,
    external_id: &str,
) -> Option<&'a v1::ExternalSnapshot> {
    head.external_snapshots.iter().find(|snapshot| is_of(snapshot, shard, token, external_id))
}

fn is_of(snapshot: &v1::ExternalSnapshot, shard: &v1::ExternalShard, token: u64, external_id: &str) -> bool {
    (&snapshot.operator, snapshot.start, snapshot.end, snapshot.token, &snapshot.external_id[..])
        == (&shard.operator, shard.start, shard.end, token, external_id)
}

/// What a snapshot of a shard may build on: the newest one of this opening that the engine called complete, else what
/// the shard was restored from, as far as these are registered and allow it.
pub fn bases(head: &v1::JobHead, entry: &v1::ShardEntry, policy: BasePolicy) -> Vec<v1::ExternalSnapshot> {
    let Some(opening) = entry.external.as_ref().filter(|_| shares_backward(policy)) else { return Vec::new() };
    let sound = |snapshot: &&v1::ExternalSnapshot| {
        snapshot.base_policy() != BasePolicy::NoSharing && snapshot.verdict() != Verdict::Aborted && snapshot.files > 0
    };
    let own = head.external_snapshots.iter().filter(|snapshot| {
        (&snapshot.operator, snapshot.start, snapshot.end, snapshot.token)
            == (&entry.operator, entry.start, entry.end, opening.token)
    });
    let complete = own.filter(sound).filter(|snapshot| snapshot.verdict() == Verdict::Completed);
    if let Some(newest) = complete.max_by_key(|snapshot| snapshot.checkpoint) {
        return vec![newest.clone()];
    }
    let restored = opening.restore.iter().filter_map(|part| registered(head, &part.snapshot.as_ref()?.manifest));
    restored.filter(sound).cloned().collect()
}

fn shares_backward(policy: BasePolicy) -> bool {
    matches!(policy, BasePolicy::Unspecified | BasePolicy::ForwardBackward)
}

/// Registers the snapshots whose manifests are stored.
pub fn commit(next: &mut v1::JobHead, rounds: &[Round]) {
    for round in rounds {
        let (Some(external), Some(stored)) = (&round.external, &round.stored) else { continue };
        let Some((operator, start, end)) = round.shards().next().filter(|_| round.agrees_with(next)) else { continue };
        if next.external_snapshots.iter().any(|known| known.manifest == stored.manifest) {
            continue;
        }
        next.external_snapshots.push(v1::ExternalSnapshot {
            external_id: external.record.external_id.clone(),
            operator: operator.clone(),
            start: *start,
            end: *end,
            token: external.record.token,
            manifest: stored.manifest.clone(),
            full_bytes: stored.full_bytes,
            checkpoint: stored.id,
            manifest_crc32c: stored.manifest_crc32c,
            manifest_bytes: stored.manifest_bytes,
            new_bytes: stored.new_bytes,
            files: stored.files,
            base_policy: external.policy.into(),
            verdict: Verdict::Unspecified.into(),
        });
    }
}

/// Takes note of what the engine says of a checkpoint; of snapshots that are not known it says nothing.
pub fn judge(next: &mut v1::JobHead, shard: &v1::ExternalShard, token: u64, external_id: &str, verdict: Verdict) {
    let snapshots = next.external_snapshots.iter_mut();
    for snapshot in snapshots.filter(|snapshot| is_of(snapshot, shard, token, external_id)) {
        snapshot.verdict = verdict.into();
    }
}

/// The registered snapshot of a manifest.
pub fn registered<'a>(head: &'a v1::JobHead, manifest: &str) -> Option<&'a v1::ExternalSnapshot> {
    head.external_snapshots.iter().find(|snapshot| snapshot.manifest == manifest)
}

/// Ends the pin of a snapshot; true if there was one.
pub fn discard(next: &mut v1::JobHead, manifest: &str) -> bool {
    let before = next.external_snapshots.len();
    next.external_snapshots.retain(|snapshot| snapshot.manifest != manifest);
    next.external_snapshots.len() < before
}

/// Entries that take part in the job's own rounds, rewinds and restores.
pub fn is_own(entry: &v1::ShardEntry) -> bool {
    entry.external.is_none()
}

/// The refusal of a snapshot that is not registered.
pub fn unknown(snapshot: &v1::ExternalSnapshot) -> Refused {
    let message = format!(
        "snapshot {:?} of {} [{},{}) ({}) is not registered: it was discarded, or is of another job",
        snapshot.external_id, snapshot.operator, snapshot.start, snapshot.end, snapshot.manifest
    );
    Refused::new(Reason::CheckpointUnknown, message)
}

/// The refusal of an opening that a later one has replaced.
pub fn stale(operator: &str, start: u32, end: u32, token: u64, highest: u64) -> Refused {
    let message = if token < highest {
        format!("token {token} of {operator} [{start},{end}) is fenced by {highest}: a later attempt has opened it")
    } else {
        format!("{operator} [{start},{end}) is open under token {highest}, the request says {token}: open it first")
    };
    Refused::new(Reason::WriterFenced, message).with("token", highest)
}

#[cfg(test)]
mod tests;
