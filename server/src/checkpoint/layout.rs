//! Every path in the object store, in one place.
//!
//! ```text
//! <cluster>/cluster                            who owns the prefix
//! <cluster>/leader                             the coordinators' election
//! <cluster>/jobs/<job>                         name → uid
//! <cluster>/deleted/<job>-<uid>                a deleted job whose objects go
//! <cluster>/<job>-<uid>/head                   the job head
//! <cluster>/<job>-<uid>/tombstones/<name>      what is about to be deleted
//! <cluster>/<job>-<uid>/shared/<server>/<uuid> files that later checkpoints may refer to
//! <cluster>/<job>-<uid>/chk/<n>/<round>/…      manifest and private files of one round
//! <directory>/<job>-<n>-<id>/savepoint         a savepoint or copied checkpoint: written last
//! <directory>/<job>-<n>-<id>/manifest, files/… what it consists of; self-contained
//! ```
//! Names below a job's prefix are relative to it in heads and manifests, and confined to it.

use uuid::Uuid;

/// The marker of the store's owner; the only path outside a cluster's prefix.
pub const CLUSTER: &str = "cluster";

/// Paths of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    id: String,
}

impl Cluster {
    /// Paths of the cluster with this id.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into() }
    }

    /// The cluster's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The election record.
    pub fn leader(&self) -> String {
        format!("{}/leader", self.id)
    }

    /// The record of a job's name.
    pub fn job_name(&self, job: &str) -> String {
        format!("{}/jobs/{job}", self.id)
    }

    /// Where the records of job names are.
    pub fn job_names(&self) -> String {
        format!("{}/jobs/", self.id)
    }

    /// The record of a deleted job whose objects go.
    pub fn deleted_job(&self, job: &str, uid: &str) -> String {
        format!("{}/deleted/{job}-{uid}", self.id)
    }

    /// Where the records of deleted jobs are.
    pub fn deleted_jobs(&self) -> String {
        format!("{}/deleted/", self.id)
    }

    /// Paths of a job.
    pub fn job(&self, job: &str, uid: &str) -> Job {
        Job { prefix: format!("{}/{job}-{uid}/", self.id) }
    }
}

/// Paths of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    prefix: String,
}

impl Job {
    /// A job's paths, from its prefix: empty, or segments that each end with a slash. `None` for any other text.
    pub fn at(prefix: &str) -> Option<Self> {
        let segments = prefix.strip_suffix('/').map(|plain| plain.split('/'));
        let sound = |part: &str| !matches!(part, "" | "." | "..");
        let confined = segments.map_or(prefix.is_empty(), |mut parts| parts.all(sound));
        confined.then(|| Self { prefix: prefix.to_owned() })
    }

    /// The job's prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The job head.
    pub fn head(&self) -> String {
        format!("{}head", self.prefix)
    }

    /// The full path of a name that a head or manifest holds; `None` if it leaves the job's prefix.
    pub fn resolve(&self, name: &str) -> Option<String> {
        let confined = !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        confined.then(|| format!("{}{name}", self.prefix))
    }
}

/// A fresh name for a file that later checkpoints may refer to, relative to the job's prefix. Never used twice.
pub fn shared_file(server: &str) -> String {
    format!("shared/{server}/{}", Uuid::new_v4().simple())
}

/// A fresh name for a file of one round only, relative to the job's prefix. Never used twice.
pub fn private_file(checkpoint: u64, round: &str) -> String {
    format!("chk/{checkpoint}/{round}/{}", Uuid::new_v4().simple())
}

/// The folder of a savepoint or of a copied checkpoint below the directory that it was asked to go to.
pub fn savepoint(job: &str, checkpoint: u64, id: &str) -> String {
    format!("{job}-{checkpoint}-{id}/")
}

/// A fresh id for such a folder.
pub fn savepoint_id() -> String {
    Uuid::new_v4().simple().to_string()[..8].to_owned()
}

/// The object of a savepoint's folder that makes it whole.
pub const SAVEPOINT: &str = "savepoint";

/// The manifest of a savepoint, in its folder.
pub const SAVEPOINT_MANIFEST: &str = "manifest";

/// A file of a savepoint, in its folder.
pub fn savepoint_file() -> String {
    format!("files/{}", Uuid::new_v4().simple())
}

/// True for the names of a savepoint's folder: nothing else is in there.
pub fn is_of_savepoint(name: &str) -> bool {
    matches!(name, SAVEPOINT | SAVEPOINT_MANIFEST) || name.starts_with("files/")
}

/// True for the name of a round's manifest.
pub fn is_manifest(name: &str) -> bool {
    name.starts_with("chk/") && name.ends_with("/manifest")
}

/// The name of a round's manifest, relative to the job's prefix.
pub fn manifest(checkpoint: u64, round: &str) -> String {
    format!("chk/{checkpoint}/{round}/manifest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_jobs_prefix() {
        let job = Cluster::new("c").job("flights", "u");
        assert_eq!(job.resolve("shared/a/b").as_deref(), Some("c/flights-u/shared/a/b"));
        for hostile in ["", "/etc/passwd", "../other-job/head", "a/../../b", "a//b", "a/./b"] {
            assert_eq!(job.resolve(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn a_prefix_is_taken_back_as_it_was_written() {
        let job = Cluster::new("c").job("flights", "u");
        assert_eq!(Job::at(job.prefix()), Some(job));
        assert_eq!(Job::at("").and_then(|root| root.resolve("a")).as_deref(), Some("a"));
        for hostile in ["a", "/", "/a/", "../", "a/../b/", "a//"] {
            assert_eq!(Job::at(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn file_names_are_never_the_same() {
        assert_ne!(shared_file("s"), shared_file("s"));
        assert_ne!(private_file(1, "r"), private_file(1, "r"));
    }
}
