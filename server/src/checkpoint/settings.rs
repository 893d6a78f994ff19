//! Settings of the object stores: data only, so that a build without a store still reads its section.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// How stores are reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// For `s3://` URLs; read, and of no effect, in a build without S3.
    pub s3: S3Config,
    /// For `gs://` URLs; read, and of no effect, in a build without Google Cloud Storage.
    pub gcs: CloudConfig,
    /// For `az://` URLs; read, and of no effect, in a build without Azure.
    pub azure: CloudConfig,
}

impl StoreConfig {
    /// Memory that uploads to the store of a URL may hold: objects go up part by part, files of a folder are copied
    /// by the kernel.
    pub fn parts_bytes(&self, url: &str) -> ByteSize {
        let of = |size: ByteSize, parallel: usize| ByteSize(size.0.saturating_mul(parallel as u64));
        match url.split_once("://") {
            Some(("s3", _)) => of(self.s3.part_size, self.s3.parts_parallel),
            Some(("gs", _)) => of(self.gcs.part_size, self.gcs.parts_parallel),
            Some(("az", _)) => of(self.azure.part_size, self.azure.parts_parallel),
            _ => ByteSize(0),
        }
    }
}

/// How S3 is reached. Credentials are not here: they come from the environment, the profile files or
/// the platform, as in every AWS tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// URL of an S3-compatible store; none means Amazon's for the region.
    pub endpoint: Option<String>,
    /// Region; none means the one of the environment or profile, else `us-east-1`.
    pub region: Option<String>,
    /// Asks for `endpoint/bucket/key` instead of `bucket.endpoint/key`; most S3-compatible stores need it.
    pub path_style: bool,
    /// Whether requests carry the additional checksums that some S3-compatible stores refuse.
    pub checksums: Checksums,
    /// How the store encrypts what is written.
    pub sse: Encryption,
    /// The key for `sse = "aws_kms"`, its id or ARN; none means the account's own key for S3.
    pub kms_key_id: Option<String>,
    /// Storage class of checkpoint files and manifests. Heads and records, small and rewritten, are
    /// always in the standard class.
    pub storage_class: StorageClass,
    /// Time to connect.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Time for one attempt, from its first byte to the last byte of its answer.
    #[serde(with = "humantime_serde")]
    pub attempt_timeout: Duration,
    /// Attempts of a call that is safe to retry, the first included.
    pub attempts_max: u32,
    /// Size of the parts of a large upload, at least 5 MiB.
    pub part_size: ByteSize,
    /// Parts that are in memory and on their way at the same time, over all uploads.
    pub parts_parallel: usize,
}

/// How Google Cloud Storage or Azure Blob Storage is reached. Credentials come from the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudConfig {
    /// URL of the service; none means the provider's own.
    pub endpoint: Option<String>,
    /// Azure's storage account; none means the one of the environment.
    pub account: Option<String>,
    /// Whether requests go without credentials.
    pub anonymous: bool,
    /// Time to connect.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Time for one attempt, from its first byte to the last byte of its answer.
    #[serde(with = "humantime_serde")]
    pub attempt_timeout: Duration,
    /// Attempts of a call that is safe to retry, the first included.
    pub attempts_max: u32,
    /// Size of the parts of a large upload, at least 5 MiB.
    pub part_size: ByteSize,
    /// Parts that are in memory and on their way at the same time, over all uploads.
    pub parts_parallel: usize,
}

impl CloudConfig {
    /// What is wrong with it.
    pub fn fault(&self) -> Option<String> {
        if self.part_size.as_u64() < 5 << 20 {
            return Some(format!("part_size is {}, allowed is at least 5 MiB", self.part_size));
        }
        let zero = self.parts_parallel == 0 || self.attempts_max == 0;
        zero.then(|| "parts_parallel and attempts_max must be at least 1".into())
    }
}

impl Default for CloudConfig {
    fn default() -> Self {
        let S3Config { connect_timeout, attempt_timeout, attempts_max, part_size, parts_parallel, .. } =
            S3Config::default();
        Self {
            endpoint: None,
            account: None,
            anonymous: false,
            connect_timeout,
            attempt_timeout,
            attempts_max,
            part_size,
            parts_parallel,
        }
    }
}

/// When additional checksums are sent and checked. What is stored carries checksums of its own either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksums {
    /// Only where S3 demands them: understood by every S3-compatible store.
    WhenRequired,
    /// Wherever Amazon's S3 knows them.
    WhenSupported,
}

/// Encryption by the store with keys that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// As the bucket says; Amazon's S3 then encrypts with keys of its own.
    None,
    /// With keys of S3 (`SSE-S3`).
    Aes256,
    /// With a key of AWS KMS (`SSE-KMS`).
    AwsKms,
}

/// A storage class whose objects can be read at once; the archives cannot, so they are not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageClass {
    /// The bucket's default.
    Standard,
    /// Cheaper to keep, dearer to read, charged for at least 30 days.
    StandardIa,
    /// The same in one zone only.
    OnezoneIa,
    /// Moved between tiers by use.
    IntelligentTiering,
    /// Cheapest to keep, dearest to read, charged for at least 90 days.
    GlacierIr,
    /// For stores that still know it.
    ReducedRedundancy,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: false,
            checksums: Checksums::WhenRequired,
            sse: Encryption::None,
            kms_key_id: None,
            storage_class: StorageClass::Standard,
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(60),
            attempts_max: 5,
            part_size: ByteSize::mib(16),
            parts_parallel: 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_valid_and_a_misspelt_key_is_not() {
        assert_eq!(toml::from_str::<StoreConfig>("").unwrap(), StoreConfig::default());
        let config: StoreConfig =
            toml::from_str("[s3]\nchecksums = \"when_supported\"\npart_size = \"8MiB\"\nattempt_timeout = \"3s\"")
                .unwrap();
        assert_eq!(config.s3.checksums, Checksums::WhenSupported);
        assert_eq!(config.s3.part_size, ByteSize::mib(8));
        assert!(toml::from_str::<StoreConfig>("[s3]\nendpiont = \"x\"").is_err());
    }

    #[test]
    fn only_uploads_to_objects_hold_parts_in_memory() {
        let config: StoreConfig = toml::from_str("[gcs]\npart_size = \"5MiB\"\nparts_parallel = 3").unwrap();
        assert_eq!(config.parts_bytes("gs://bucket/x"), ByteSize::mib(15));
        assert_eq!(config.parts_bytes("s3://bucket"), ByteSize::mib(16 * 8));
        assert_eq!(["", "/x", "file:///x", "memory://"].map(|url| config.parts_bytes(url)), [ByteSize(0); 4]);
    }

    #[test]
    fn an_archive_is_no_storage_class() {
        let of = |class: &str| toml::from_str::<StoreConfig>(&format!("[s3]\nstorage_class = \"{class}\""));
        assert_eq!(of("intelligent_tiering").unwrap().s3.storage_class, StorageClass::IntelligentTiering);
        let err = of("deep_archive").unwrap_err().to_string();
        assert!(err.contains("deep_archive") && err.contains("standard_ia"), "{err}");
    }
}
