//! Google Cloud Storage.

use std::sync::Arc;

use object_store::gcp::GoogleCloudStorageBuilder;

use super::{
    super::{objects::Result, settings::CloudConfig},
    Compares, OtherStore, options,
};

impl OtherStore {
    /// Opens `gs://bucket/prefix` with the credentials of the environment: `GOOGLE_APPLICATION_CREDENTIALS`,
    /// `GOOGLE_SERVICE_ACCOUNT`, or the machine's own account. Asks the store nothing yet.
    pub fn open_gcs(url: &str, config: &CloudConfig) -> Result<Self> {
        let bucket = url.trim_start_matches("gs://").split('/').next().unwrap_or_default().to_owned();
        Self::new(url, config, Compares::Generation, |retries| {
            let mut builder = GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(&bucket)
                .with_retry(retries)
                .with_client_options(options(config))
                .with_skip_signature(config.anonymous);
            if config.anonymous {
                // The crate asks for a token in writes, although it is told to leave signatures out.
                builder = builder.with_bearer_token("anonymous");
            }
            if let Some(endpoint) = &config.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            Ok(Arc::new(builder.build()?))
        })
    }
}
