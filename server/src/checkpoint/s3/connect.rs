//! From a URL and a configuration to a client.

use aws_config::{
    BehaviorVersion, Region, environment::EnvironmentVariableRegionProvider, meta::region::RegionProviderChain,
    profile::ProfileFileRegionProvider, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_s3::{
    Client,
    config::{
        Builder, Credentials, RequestChecksumCalculation, ResponseChecksumValidation,
        retry::{RetryPartition, TokenBucket},
    },
};
use uuid::Uuid;

use super::{
    super::{
        objects::{Error, Result, check_path},
        settings::{Checksums, Encryption, S3Config},
    },
    BACKOFF_MAX, BACKOFF_MIN,
    credentials::Identity,
};

/// Splits `s3://bucket/prefix`; the prefix comes back empty or with a `/` at its end.
pub(super) fn parse(url: &str) -> Result<(String, String)> {
    let rest = url.strip_prefix("s3://").unwrap_or_default();
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if bucket.is_empty() || !bucket.chars().all(name) {
        // Not repeated in the message: it may hold a password.
        return Err(Error::Refused {
            store: "s3://".into(),
            path: "its URL".into(),
            detail: "it must be s3://bucket/prefix; credentials come from the environment".into(),
        });
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() {
        return Ok((bucket.into(), String::new()));
    }
    check_path(&format!("s3://{bucket}"), prefix)?;
    Ok((bucket.into(), format!("{prefix}/")))
}

/// What is wrong with a configuration.
pub(super) fn fault(config: &S3Config) -> Option<String> {
    if config.part_size.as_u64() < 5 << 20 {
        return Some(format!("part_size is {}, S3 wants at least 5 MiB", config.part_size));
    }
    if let Some(url) =
        config.endpoint.as_ref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://"))
    {
        return Some(format!("endpoint {url:?} must start with http:// or https://"));
    }
    if let Some(key) = config.kms_key_id.as_ref().filter(|_| config.sse != Encryption::AwsKms) {
        return Some(format!("kms_key_id is {key:?}, allowed with sse = \"aws_kms\" only"));
    }
    let zero = config.parts_parallel == 0 || config.attempts_max == 0;
    zero.then(|| "parts_parallel and attempts_max must be at least 1".into())
}

/// The SDK's client, with whom it is if that can be read anew; asks the store nothing yet.
pub(super) async fn client(config: &S3Config, credentials: Option<Credentials>) -> (Client, Option<Identity>) {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .operation_attempt_timeout(config.attempt_timeout)
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(config.attempts_max)
        .with_initial_backoff(BACKOFF_MIN)
        .with_max_backoff(BACKOFF_MAX);
    let region = match (&config.region, &config.endpoint) {
        (Some(region), _) => RegionProviderChain::first_try(Region::new(region.clone())),
        // Elsewhere than in Amazon's cloud there is no instance metadata to wait for.
        (None, Some(_)) => RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new())
            .or_else("us-east-1"),
        (None, None) => RegionProviderChain::default_provider().or_else("us-east-1"),
    };
    let region = region.region().await;
    let identity = credentials.is_none().then(|| Identity::of_environment(region.clone()));
    let loader =
        aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).retry_config(retries).region(region);
    let mut loader = match (&identity, credentials) {
        (Some(identity), _) => loader.credentials_provider(identity.clone()).identity_cache(identity.clone()),
        (None, Some(credentials)) => loader.credentials_provider(credentials),
        (None, None) => unreachable!("without credentials there is an identity"),
    };
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let (request, response) = match config.checksums {
        Checksums::WhenRequired => (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired),
        Checksums::WhenSupported => {
            (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
        }
    };
    // By default all clients of a process share a budget of retries: a burst of failures of one store
    // would end those of all. `attempts_max` and the backoff are the bound here.
    let unshared =
        RetryPartition::custom(format!("forebay-{}", Uuid::new_v4())).token_bucket(TokenBucket::unlimited()).build();
    let config = Builder::from(&loader.load().await)
        .force_path_style(config.path_style)
        .request_checksum_calculation(request)
        .response_checksum_validation(response)
        .retry_partition(unshared)
        .build();
    (Client::from_conf(config), identity)
}
