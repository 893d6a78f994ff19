//! Credentials that are read again.
//!
//! The SDK asks its chain (environment, profile files with roles and processes, web identity, containers,
//! instance metadata) again when credentials end by themselves. But what it has once read of a profile file
//! it keeps for ever, and it does not ask because a store calls credentials expired. So here the chain is
//! built anew whenever it is asked for credentials without an end of their own, and all is forgotten when
//! the store refuses.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use aws_config::{Region, default_provider::credentials::DefaultCredentialsChain};
use aws_credential_types::provider::{self, future};
use aws_sdk_s3::{
    config::{
        ConfigBag, Credentials, IdentityCache, ProvideCredentials, ResolveCachedIdentity, RuntimeComponents,
        SharedIdentityCache,
    },
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_runtime_api::client::identity::{IdentityFuture, SharedIdentityResolver};

/// Who the store's client is: the chain of credentials and what was last read from it. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// For the services that hand out credentials.
    region: Option<Region>,
    /// How often it was forgotten.
    readings: AtomicU64,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Known {
    chain: Option<Arc<DefaultCredentialsChain>>,
    cache: SharedIdentityCache,
}

impl Known {
    fn nothing() -> Self {
        Self { chain: None, cache: IdentityCache::lazy().build() }
    }
}

impl Identity {
    /// The identity that this process's surroundings give. Reads nothing yet.
    pub(super) fn of_environment(region: Option<Region>) -> Self {
        let known = RwLock::new(Known::nothing());
        Self(Arc::new(Inner { region, readings: AtomicU64::new(0), known }))
    }

    /// Which reading the credentials of a call that starts now are of, at least.
    pub(super) fn reading(&self) -> u64 {
        self.0.readings.load(Ordering::Acquire)
    }

    /// Makes the next call read all credentials anew, unless another call has seen to it since `reading`:
    /// of many calls that are refused together one has them read.
    pub(super) fn forget(&self, reading: u64) {
        let next = self.0.readings.compare_exchange(reading, reading + 1, Ordering::AcqRel, Ordering::Relaxed);
        if next.is_ok() {
            *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Known::nothing();
        }
    }

    fn chain(&self) -> Option<Arc<DefaultCredentialsChain>> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).chain.clone()
    }

    async fn read(&self) -> provider::Result {
        let reading = self.reading();
        let chain = match self.chain() {
            Some(chain) => chain,
            None => Arc::new(DefaultCredentialsChain::builder().region(self.0.region.clone()).build().await),
        };
        let result = chain.provide_credentials().await;
        // One that ends by itself is kept: its sources renew it, and may use it on while they are away.
        let keep = result.as_ref().is_ok_and(|credentials| credentials.expiry().is_some());
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if self.reading() == reading {
            known.chain = keep.then_some(chain);
        }
        result
    }
}

impl ProvideCredentials for Identity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.read())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.chain()?.fallback_on_interrupt()
    }
}

impl ResolveCachedIdentity for Identity {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        components: &'a RuntimeComponents,
        config: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        let cache = self.0.known.read().unwrap_or_else(PoisonError::into_inner).cache.clone();
        IdentityFuture::new(async move { cache.resolve_cached_identity(resolver, components, config).await })
    }
}

/// How often a call is worth repeating with credentials that are read anew; none if they are not to blame.
pub(super) fn repetitions<E: ProvideErrorMetadata>(err: &SdkError<E>, attempts_max: u32) -> Option<u32> {
    let status = err.raw_response()?.status().as_u16();
    match (status, err.code().unwrap_or_default()) {
        // Whoever renews them may be a moment late.
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => Some(attempts_max - 1),
        // Perhaps a key that was replaced and deleted, perhaps simply a wrong one.
        (_, "InvalidAccessKeyId" | "InvalidToken") => Some(1),
        // An answer to HEAD has no body that could say why.
        (401 | 403, "" | "Forbidden") => Some(1),
        _ => None,
    }
}
