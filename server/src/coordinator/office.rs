//! Stands for election, and coordinates while it leads.
//!
//! Does what [`Election`] says: reads and writes the record, and starts and ends a [`Coordinator`] with each term.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use forebay_proto::{reason::Refused, v1};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Config, Coordinator, Error,
    election::{Candidate, Election, Step},
    head::OpenError,
    mandate::Mandate,
};
use crate::{
    checkpoint::{
        frame::{self, ObjectKind},
        layout,
        objects::{self, Condition, Version},
        stores::Stores,
    },
    lease::boot_ms,
};

/// Pause between two tries to take up the jobs.
const AGAIN: Duration = Duration::from_secs(1);

/// A coordinator's process: it stands by, or leads.
#[derive(Debug)]
pub struct Office {
    stores: Arc<Stores>,
    cluster: layout::Cluster,
    me: Candidate,
    config: Config,
    election: Mutex<Election>,
    /// Of the present term, or of the last one.
    mandate: Mutex<Mandate>,
    /// Called when something was said that the record should tell.
    called: Notify,
    leads: watch::Sender<Option<Arc<Coordinator>>>,
    /// True once it leads or has to wait.
    settled: watch::Sender<bool>,
}

/// One term of office.
#[derive(Debug)]
struct Term {
    epoch: u64,
    over: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Office {
    /// Stands for election; [`run`](Self::run) does it.
    pub fn new(
        stores: Arc<Stores>,
        cluster: layout::Cluster,
        name: &str,
        address: &str,
        disk: &str,
        config: Config,
    ) -> Arc<Self> {
        let me = Candidate {
            name: name.to_owned(),
            address: address.to_owned(),
            disk_id: disk.to_owned(),
            lease_ms: config.lease().as_millis() as i64,
            forget_ms: config.standby_forget.as_millis() as i64,
            succeeds: config.succeeds.clone(),
        };
        let election = Mutex::new(Election::new(me.clone(), Uuid::new_v4().simple().to_string()));
        let (mandate, called) = (Mutex::new(Mandate::until(i64::MIN)), Notify::new());
        let (leads, _) = watch::channel(None);
        let (settled, _) = watch::channel(false);
        Arc::new(Self { stores, cluster, me, config, election, mandate, called, leads, settled })
    }

    /// Runs until `stop` is cancelled, and then resigns. An error means that the record, or what it should
    /// coordinate, is damaged.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), Error> {
        let mut term: Option<Term> = None;
        loop {
            let pause = self.step().await?;
            self.follow(&mut term).await?;
            if pause.is_zero() {
                continue;
            }
            if term.is_none() {
                self.settled.send_replace(true);
            }
            let broken = async {
                match &mut term {
                    Some(term) => (&mut term.task).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.called.notified() => {}
                () = sleep(pause) => {}
                ended = broken => return ended.expect("a term does not panic"),
            }
        }
        self.resign(term).await;
        Ok(())
    }

    /// Waits until it leads, or knows that it has to wait.
    pub async fn settled(&self) {
        // An error means that it is over.
        self.settled.subscribe().wait_for(|settled| *settled).await.ok();
    }

    /// The coordinator, while this process leads.
    pub fn leads(&self) -> Result<Arc<Coordinator>, Refused> {
        let coordinator = self.leads.borrow().clone().filter(|coordinator| coordinator.mandate().is_valid());
        coordinator.ok_or_else(|| self.election().refusal())
    }

    /// The coordinator while this process leads, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Coordinator>>> {
        self.leads.subscribe()
    }

    /// Who stands by, as far as the record says.
    pub fn standbys(&self) -> Vec<v1::Standby> {
        self.election().standbys()
    }

    /// Takes, as the leader, what one says that stands by.
    pub fn stands_by(&self, request: &v1::StandByRequest) -> Result<v1::StandByResponse, Refused> {
        if request.cluster_id != self.cluster.id() {
            let (theirs, ours) = (&request.cluster_id, self.cluster.id());
            let message =
                format!("coordinator {:?} is of cluster {theirs}, this one of {ours}: check its address", request.name);
            return Err(Refused::new(v1::ErrorReason::SettingsConflict, message));
        }
        let mut election = self.election();
        let answer = election.stands_by(request, boot_ms());
        // Before the answer goes out, and before the record can name whom it takes in: behind that nothing may be said
        // under a mandate that knows nothing of it.
        self.heed(&election);
        drop(election);
        if answer.as_ref().is_ok_and(|answer| answer.yields) {
            info!(to = request.name, "this coordinator does not reach the store and yields to one that does");
        }
        self.called.notify_one();
        answer
    }

    /// While it stands by: the leader's address, and what to tell it.
    pub fn stand_by(&self) -> Option<(String, v1::StandByRequest)> {
        let election = self.election();
        let address = election.leader()?.1.to_owned();
        let request = election.stand_by(boot_ms())?;
        Some((address, v1::StandByRequest { cluster_id: self.cluster.id().to_owned(), ..request }))
    }

    /// Takes the leader's answer.
    pub fn answered(&self, epoch: u64, answer: &v1::StandByResponse) {
        self.election().answered(epoch, answer, boot_ms());
        if answer.yields {
            self.called.notify_one();
        }
    }

    /// How often to tell the leader.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.me.lease_ms.unsigned_abs() / 5)
    }

    fn election(&self) -> MutexGuard<'_, Election> {
        self.election.lock().expect("no panics under this lock")
    }

    fn mandate(&self) -> MutexGuard<'_, Mandate> {
        self.mandate.lock().expect("no panics under this lock")
    }

    /// Has the store do one thing; returns how long to wait before the next. An error means that the record is damaged.
    async fn step(&self) -> Result<Duration, Error> {
        let sent_ms = boot_ms();
        let step = self.election().next(sent_ms);
        let patience = Duration::from_millis(self.me.lease_ms.unsigned_abs() / 2);
        let done = match step {
            Step::Wait(pause_ms) => return Ok(Duration::from_millis(pause_ms.max(1).unsigned_abs())),
            Step::Read => timeout(patience, self.read())
                .await
                .map(|found| found.map(|found| self.election().read(found, boot_ms()))),
            Step::Write(record, condition) => timeout(patience, self.write(&record, &condition))
                .await
                .map(|written| written.map(|version| self.election().wrote(record, version, sent_ms, boot_ms()))),
        };
        match done {
            Ok(Ok(())) => return Ok(Duration::ZERO),
            Ok(Err(Error::Store(objects::Error::Conflict { .. }))) => {
                self.election().unknown();
                return Ok(Duration::ZERO);
            }
            // Nobody can be elected by it, and people have to put it right.
            Ok(Err(error @ Error::Damaged(_))) => return Err(error),
            Ok(Err(error)) => warn!(%error, "the election record cannot be read or written yet"),
            Err(_) => warn!(?patience, "the store does not answer for the election record"),
        }
        self.election().unknown();
        Ok(self.pause())
    }

    /// Moves the end of the mandate to where the election says that it is.
    fn heed(&self, election: &Election) {
        match election.mandate() {
            Some((_, until_ms)) => self.mandate().extend(until_ms),
            None => self.mandate().end(),
        }
    }

    async fn read(&self) -> Result<Option<(v1::LeaderRecord, Version)>, Error> {
        let path = self.cluster.leader();
        match self.stores.own().get(&path).await {
            Ok((bytes, version)) => Ok(Some((frame::decode(ObjectKind::Leader, &path, &bytes)?, version))),
            Err(objects::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn write(&self, record: &v1::LeaderRecord, condition: &Condition) -> Result<Version, Error> {
        let bytes = frame::encode(ObjectKind::Leader, record);
        Ok(self.stores.own().put_if(&self.cluster.leader(), bytes, condition).await?)
    }

    /// Begins and ends terms as the election says.
    async fn follow(self: &Arc<Self>, term: &mut Option<Term>) -> Result<(), Error> {
        let epoch = self.heed_term(term.as_ref().map(|term| term.epoch));
        if let Some(over) = term.take_if(|term| epoch != Some(term.epoch)) {
            warn!(epoch = over.epoch, "this coordinator leads no more");
            over.end().await?;
        }
        if let (Some(epoch), None) = (epoch, &term) {
            *term = Some(self.begin(epoch));
        }
        Ok(())
    }

    /// The epoch that it leads under, with a mandate of its own if it is another than that of the present term.
    fn heed_term(&self, present: Option<u64>) -> Option<u64> {
        let mut election = self.election();
        election.end_if_over(boot_ms());
        let (epoch, until_ms) = election.mandate().unzip();
        if epoch != present {
            self.mandate().end();
        }
        match until_ms.filter(|_| epoch != present) {
            Some(until_ms) => *self.mandate() = Mandate::until(until_ms),
            None => self.heed(&election),
        }
        epoch
    }

    fn begin(self: &Arc<Self>, epoch: u64) -> Term {
        let (mandate, over) = (self.mandate().clone(), CancellationToken::new());
        let task = tokio::spawn(self.clone().coordinate(epoch, mandate, over.clone()));
        Term { epoch, over, task }
    }

    /// One term: takes up the jobs, and serves until it is over.
    async fn coordinate(self: Arc<Self>, epoch: u64, mandate: Mandate, over: CancellationToken) -> Result<(), Error> {
        let coordinator = tokio::select! {
            () = over.cancelled() => return Ok(()),
            started = self.take_up(epoch, &mandate) => started?,
        };
        self.leads.send_replace(Some(coordinator.clone()));
        self.settled.send_replace(true);
        over.cancelled().await;
        self.leads.send_replace(None);
        coordinator.end();
        Ok(())
    }

    async fn take_up(&self, epoch: u64, mandate: &Mandate) -> Result<Arc<Coordinator>, Error> {
        loop {
            let (stores, cluster, me) = (self.stores.clone(), self.cluster.clone(), &self.me);
            match Coordinator::start(stores, cluster, me, epoch, mandate.clone(), &self.config).await {
                // Of a later one that has taken office the record will tell.
                Err(error @ (Error::Store(_) | Error::Head(OpenError::Store(_) | OpenError::Deposed { .. }))) => {
                    warn!(%error, "the jobs cannot be taken up yet");
                }
                done => return done,
            }
            sleep(AGAIN).await;
        }
    }

    async fn resign(&self, term: Option<Term>) {
        let Some(term) = term else { return };
        self.mandate().end();
        if let Err(error) = term.end().await {
            warn!(%error, "the last term ended badly");
        }
        let Some((record, condition)) = self.election().resignation(boot_ms()) else { return };
        let patience = self.pause();
        match timeout(patience, self.write(&record, &condition)).await {
            Ok(Ok(_)) => info!("this coordinator has resigned"),
            // Others wait for the lease, then.
            Ok(Err(error)) => warn!(%error, "this coordinator could not resign"),
            Err(_) => warn!("this coordinator could not resign in time"),
        }
    }
}

impl Term {
    async fn end(self) -> Result<(), Error> {
        self.over.cancel();
        self.task.await.expect("a term does not panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::store::{self, StoreConfig},
        coordinator::marker,
    };

    #[tokio::test]
    async fn who_is_taken_in_is_heeded_before_the_record_can_name_it() {
        let store = store::open("memory://", &StoreConfig::default()).await.unwrap();
        let cluster = marker::found(&store, 0).await.unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let stores = Stores::new(store, StoreConfig::default(), Vec::new(), scratch.path().to_owned());
        let cluster_id = cluster.id().to_owned();
        let config = Config { lease: Some(Duration::from_secs(2)), ..Config::default() };
        let office = Office::new(Arc::new(stores), cluster, "c0", "http://c0", "disk", config);
        let mut term = None;
        while term.is_none() {
            office.step().await.unwrap();
            office.follow(&mut term).await.unwrap();
        }
        let mandate = office.mandate().clone();
        assert_eq!(mandate.ends(), i64::MAX, "nobody could follow it");
        let request = v1::StandByRequest { name: "c1".into(), cluster_id, epoch: 1, ..Default::default() };
        office.stands_by(&request).unwrap();
        assert!(office.standbys().is_empty(), "the record does not name it yet");
        assert!(mandate.is_valid() && mandate.ends() <= boot_ms() + office.me.lease_ms);
        while office.standbys().is_empty() {
            office.step().await.unwrap();
        }
        // A renewal moves the end on, when it is due.
        let before = mandate.ends();
        while mandate.ends() == before {
            let pause = office.step().await.unwrap();
            office.follow(&mut term).await.unwrap();
            sleep(pause).await;
        }
        assert!(mandate.is_valid());
        office.resign(term).await;
        assert!(!mandate.is_valid() && office.leads().is_err());
    }
}
