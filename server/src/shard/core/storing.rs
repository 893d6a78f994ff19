//! How far a batch has got when it is answered: the memory, the log, the disk.

use forebay_proto::{reason::Refused, v1};
use v1::ErrorReason as Reason;

use super::{super::ops, Core};
use crate::storage::{self, Logging, Writes};

impl Core {
    /// True if [`Core::sync`] has something to do: until then nobody may be told of what was applied.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Makes what was applied survive the machine, where that is promised; a failure ends the process.
    pub fn sync(&mut self) -> Result<(), Refused> {
        if !std::mem::take(&mut self.unsynced) {
            return Ok(());
        }
        self.backend.write(&Writes::default(), Logging::Synced).map_err(|error| {
            self.failed = Some(error.to_string());
            ops::failed(&error)
        })
    }

    pub(super) fn durable_enough(&self, asked: v1::Durability) -> Result<(), Refused> {
        use v1::Durability::{Checkpoint, None, Unspecified};
        let job = self.identity.durability;
        let message = match asked {
            Checkpoint => "wait for a checkpoint with AwaitDurable: a batch cannot ask for it",
            Unspecified | None => return Ok(()),
            _ if job == None => "the job's durability is none: logged and unlogged writes are never mixed",
            _ => return Ok(()),
        };
        Err(Refused::new(Reason::SettingsConflict, message))
    }

    pub(super) fn logging(&self, asked: v1::Durability) -> Logging {
        match self.identity.durability {
            v1::Durability::None => Logging::None,
            v1::Durability::WalSync => Logging::Synced,
            _ if asked == v1::Durability::WalSync => Logging::Synced,
            _ => Logging::Buffered,
        }
    }

    pub(super) fn store(&mut self, writes: &Writes, asked: v1::Durability) -> Result<(), Refused> {
        let (logging, sync) = match self.logging(asked) {
            Logging::Synced => (Logging::Buffered, true),
            logging => (logging, false),
        };
        let result = self.backend.write(writes, logging);
        // What was refused has left nothing to sync.
        self.unsynced |= sync && result.is_ok();
        if let Err(error) = &result
            && matches!(error, storage::Error::Io { .. } | storage::Error::Corrupt { .. })
        {
            // Nobody knows what of the batch is on the disk. Only a new start that reads the log does.
            self.failed = Some(error.to_string());
        }
        result.map_err(|error| ops::failed(&error))
    }
}
