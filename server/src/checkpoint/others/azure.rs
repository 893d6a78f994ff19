//! Azure Blob Storage.

use std::sync::Arc;

use object_store::azure::MicrosoftAzureBuilder;

use super::{
    super::{objects::Result, settings::CloudConfig},
    Compares, OtherStore, options,
};

impl OtherStore {
    /// Opens `az://container/prefix` with the credentials of the environment: `AZURE_STORAGE_ACCOUNT_NAME` with
    /// `AZURE_STORAGE_ACCOUNT_KEY`, a service principal, a workload's or the machine's identity. Asks the store
    /// nothing yet.
    pub fn open_azure(url: &str, config: &CloudConfig) -> Result<Self> {
        Self::azure(url, config, MicrosoftAzureBuilder::from_env())
    }

    /// Opens `az://container/prefix` with an account's key, for tests within a process.
    pub fn open_azure_with_key(url: &str, config: &CloudConfig, account: &str, key: &str) -> Result<Self> {
        Self::azure(url, config, MicrosoftAzureBuilder::new().with_account(account).with_access_key(key))
    }

    fn azure(url: &str, config: &CloudConfig, given: MicrosoftAzureBuilder) -> Result<Self> {
        let container = url.trim_start_matches("az://").split('/').next().unwrap_or_default().to_owned();
        Self::new(url, config, Compares::Etag, |retries| {
            let mut builder = given
                .clone()
                .with_container_name(&container)
                .with_retry(retries)
                .with_client_options(options(config))
                .with_skip_signature(config.anonymous);
            if let Some(endpoint) = &config.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            if let Some(account) = &config.account {
                builder = builder.with_account(account);
            }
            Ok(Arc::new(builder.build()?))
        })
    }
}
