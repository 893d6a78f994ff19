//! Access keys: some are known, and a known one can be called expired.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use s3s::{
    S3Result,
    auth::{S3Auth, SecretKey},
    s3_error,
};

use super::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};

/// The access keys of a server. Clones share them.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Mutex<HashMap<String, Key>>>);

#[derive(Debug)]
struct Key {
    secret: String,
    expired: bool,
}

impl Default for Keys {
    fn default() -> Self {
        let keys = Self(Arc::default());
        keys.allow(ACCESS_KEY_ID, SECRET_ACCESS_KEY);
        keys
    }
}

impl Keys {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a key in.
    pub fn allow(&self, id: &str, secret: &str) {
        self.all().insert(id.into(), Key { secret: secret.into(), expired: false });
    }

    /// Answers `ExpiredToken` to every call that a key signs from now on.
    pub fn expire(&self, id: &str) {
        if let Some(key) = self.all().get_mut(id) {
            key.expired = true;
        }
    }

    pub(super) fn is_expired(&self, id: &str) -> bool {
        self.all().get(id).is_some_and(|key| key.expired)
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = self.all();
        keys.get(access_key).map(|key| key.secret.clone().into()).ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}
