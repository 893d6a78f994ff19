//! A shard's way from one server to another, in the head. Pure.
//!
//! `leaving → arriving → there`. While a shard leaves it is still its former server's, which serves nothing of it any
//! more: once that one has stored what it holds, a single write makes the shard the other's. Whatever goes wrong before
//! that write, the former server goes on; behind it, what was stored is all there is, and any server can be given it.
//! Writer, incarnation and lanes stay. See semantics.md, section 10.

use forebay_proto::v1;

use super::round::{Kind, Place, Round, place};

/// A move that is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The shard.
    pub place: Place,
    /// Its epoch when the move was asked for.
    pub epoch: u64,
    /// Name of the server that it goes to.
    pub to: String,
    /// Tells it from other moves.
    pub number: u64,
}

/// Lets a shard leave; one that arrives somewhere goes elsewhere instead. Nothing comes of it if the shard is not what it
/// was, or does not stand.
pub fn begin(next: &mut v1::JobHead, wish: &Wish) {
    let same = |entry: &&mut v1::ShardEntry| place(entry) == wish.place && entry.epoch == wish.epoch;
    let Some(entry) = next.shards.iter_mut().find(same) else { return };
    let handover = v1::Handover { r#move: wish.number, server: wish.to.clone(), snapshot: None };
    match entry.handover.clone() {
        None if entry.established => entry.handover = Some(handover),
        Some(v1::Handover { snapshot: snapshot @ Some(_), .. }) => {
            give(entry, v1::Handover { snapshot, ..handover });
        }
        _ => {}
    }
}

/// Ends a move whose shard has not left.
pub fn cancel(next: &mut v1::JobHead, of: &Place, number: u64) {
    let same = |entry: &&mut v1::ShardEntry| place(entry) == *of && entry.is_leaving() && entry.move_number() == number;
    if let Some(entry) = next.shards.iter_mut().find(same) {
        entry.handover = None;
    }
}

/// Gives the shards whose former servers have stored what they hold to their new ones.
pub fn commit(next: &mut v1::JobHead, rounds: &[Round]) {
    for round in rounds.iter().filter(|round| round.kind == Kind::Handover) {
        let Some(stored) = round.stored.as_ref().filter(|_| round.agrees_with(next)) else { continue };
        let moved = |entry: &&mut v1::ShardEntry| round.shards().any(|at| *at == place(entry)) && entry.is_leaving();
        if let Some(entry) = next.shards.iter_mut().find(moved) {
            let handover = entry.handover.take().unwrap_or_default();
            give(entry, v1::Handover { snapshot: Some(stored.clone()), ..handover });
        }
    }
}

fn give(entry: &mut v1::ShardEntry, handover: v1::Handover) {
    entry.server.clone_from(&handover.server);
    entry.epoch += 1;
    entry.established = false;
    entry.handover = Some(handover);
}

/// Keeps the shards that are to go to servers that are not `up` where they are.
pub fn keep_where_nobody_waits(next: &mut v1::JobHead, up: &[String]) {
    for entry in next.shards.iter_mut().filter(|entry| entry.is_leaving()) {
        entry.handover.take_if(|handover| !up.contains(&handover.server));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: (&str, u32, u32) = ("op", 0, 64);

    fn head(handover: Option<v1::Handover>) -> v1::JobHead {
        let entry = v1::ShardEntry {
            operator: SHARD.0.into(),
            start: SHARD.1,
            end: SHARD.2,
            server: "s".into(),
            epoch: 3,
            incarnation: 2,
            established: handover.as_ref().is_none_or(|handover| handover.snapshot.is_none()),
            handover,
            ..Default::default()
        };
        v1::JobHead { shards: vec![entry], ..Default::default() }
    }

    fn wish(epoch: u64, to: &str) -> Wish {
        Wish { place: (SHARD.0.into(), SHARD.1, SHARD.2), epoch, to: to.into(), number: 9 }
    }

    fn arriving() -> v1::Handover {
        let snapshot = Some(v1::CompletedCheckpoint { id: 7, ..Default::default() });
        v1::Handover { r#move: 7, server: "s".into(), snapshot }
    }

    #[test]
    fn only_a_shard_that_stands_as_it_was_leaves() {
        let mut next = head(None);
        begin(&mut next, &wish(2, "t"));
        assert_eq!(next, head(None), "it has moved meanwhile");
        next.shards[0].established = false;
        begin(&mut next, &wish(3, "t"));
        assert_eq!(next.shards[0].handover, None);
        next.shards[0].established = true;
        begin(&mut next, &wish(3, "t"));
        let entry = &next.shards[0];
        assert_eq!((entry.is_leaving(), entry.move_number(), entry.server.as_str(), entry.epoch), (true, 9, "s", 3));
        cancel(&mut next, &(SHARD.0.into(), SHARD.1, SHARD.2), 8);
        assert!(next.shards[0].is_leaving(), "that is another move");
        cancel(&mut next, &(SHARD.0.into(), SHARD.1, SHARD.2), 9);
        assert_eq!(next, head(None));
    }

    #[test]
    fn one_that_arrives_goes_elsewhere_with_what_was_stored_and_cannot_stay() {
        let mut next = head(Some(arriving()));
        cancel(&mut next, &(SHARD.0.into(), SHARD.1, SHARD.2), 7);
        keep_where_nobody_waits(&mut next, &[]);
        assert_eq!(next, head(Some(arriving())));
        begin(&mut next, &wish(3, "t"));
        let entry = &next.shards[0];
        assert_eq!((entry.server.as_str(), entry.epoch, entry.incarnation), ("t", 4, 2));
        assert_eq!((entry.handed_over().map(|stored| stored.id), entry.move_number()), (Some(7), 9));
    }

    #[test]
    fn one_that_leaves_for_a_server_that_is_not_up_stays() {
        let leaving = || v1::Handover { r#move: 9, server: "t".into(), snapshot: None };
        let mut next = head(Some(leaving()));
        keep_where_nobody_waits(&mut next, &["s".into(), "t".into()]);
        assert_eq!(next, head(Some(leaving())));
        keep_where_nobody_waits(&mut next, &["s".into()]);
        assert_eq!(next, head(None));
    }
}
