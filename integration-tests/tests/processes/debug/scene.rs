//! A job whose keys are numbers, and what people ask of it.

use forebay_integration_tests::harness::{Api, Forebay, Job, JobBuilder, raw, text};
use forebay_proto::{
    codec::{Codec as _, I64},
    v1::{self, Notation, StateKind},
};

/// The result of a call.
pub type Result<T> = std::result::Result<T, tonic::Status>;

pub const BACKENDS: [v1::Backend; 2] = [v1::Backend::Rocksdb, v1::Backend::Memory];

/// A state with numbers as keys and map keys, and text as namespaces.
pub fn of(name: &str, kind: StateKind, value_codec: &str, function: &str) -> v1::StateDescriptor {
    v1::StateDescriptor {
        name: name.into(),
        kind: kind.into(),
        key_codec: "i64".into(),
        namespace_codec: "utf8".into(),
        map_key_codec: "i64".into(),
        value_codec: value_codec.into(),
        function: function.into(),
        ..Default::default()
    }
}

/// The bytes of a number.
pub fn typed(codec: &str, number: i64) -> Vec<u8> {
    assert_eq!(codec, "i64");
    I64::to_bytes(&number).expect("a number")
}

/// Text as people write it.
pub fn written(text: &str) -> v1::Written {
    v1::Written { form: Some(v1::written::Form::Text(text.into())) }
}

/// What is shown of parts of an entry.
pub fn texts<const N: usize>(parts: [&Option<v1::Shown>; N]) -> [String; N] {
    parts.map(|part| part.as_ref().map(|shown| shown.text.clone()).unwrap_or_default())
}

pub struct Scene {
    pub api: Api,
    pub job: Job,
    _forebay: Forebay,
}

impl Scene {
    pub async fn start(backend: v1::Backend, states: &[v1::StateDescriptor]) -> Self {
        let forebay = Forebay::dev().await;
        let api = forebay.api();
        let spec = JobBuilder::shared("job", 2).with(|spec| spec.set_backend(backend)).build();
        let job = Job::create(&api, spec, states).await;
        Self { api, job, _forebay: forebay }
    }

    /// The address of the key -5.
    fn at(&self, state: &str) -> v1::Address {
        v1::Address { key: Some(raw(typed("i64", -5))), ..self.job.at(state, "") }
    }

    pub async fn put(&self, state: &str, values: &[&[u8]]) {
        let values = values.iter().map(|value| raw(*value)).collect();
        let request = v1::PutRequest { address: Some(self.at(state)), values, ..Default::default() };
        self.api.state().put(request).await.unwrap();
    }

    pub async fn map_put(&self, state: &str, map_key: &[u8], value: &[u8]) {
        let entry = v1::MapEntry { map_key: Some(raw(map_key)), value: Some(raw(value)), expires_at_ms: None };
        let request = v1::MapPutRequest { address: Some(self.at(state)), entries: vec![entry], ..Default::default() };
        self.api.state().map_put(request).await.unwrap();
    }

    pub async fn append(&self, state: &str, map_key: &[u8], element: &[u8]) {
        let request = v1::AppendRequest {
            address: Some(self.at(state)),
            values: vec![raw(element)],
            map_key: Some(raw(map_key)),
            ..Default::default()
        };
        self.api.state().append(request).await.unwrap();
    }

    pub async fn append_at(&self, state: &str, key: i64, window: &str, element: &[u8]) {
        let (key, namespace) = (Some(raw(typed("i64", key))), Some(text(window)));
        let address = v1::Address { key, namespace, ..self.job.at(state, "") };
        self.api.append(address, raw(element)).await.unwrap();
    }

    pub async fn add(&self, state: &str, value: &[u8], by: Option<&[u8]>) {
        let (value, by) = (Some(raw(value)), by.map(raw));
        let request = v1::AddRequest { address: Some(self.at(state)), value, by, ..Default::default() };
        self.api.state().add(request).await.unwrap();
    }

    pub async fn try_entry(
        &self,
        state: &str,
        notation: Notation,
        map_key: Option<v1::Written>,
    ) -> Result<v1::GetEntryResponse> {
        let address = v1::WrittenAddress {
            job: "job".into(),
            operator: "op".into(),
            state: state.into(),
            key: Some(written("-5")),
            map_key,
            ..Default::default()
        };
        let request = v1::GetEntryRequest { address: Some(address), notation: notation.into(), ..Default::default() };
        Ok(self.api.debug().get_entry(request).await?.into_inner())
    }

    pub async fn entry(&self, state: &str, notation: Notation, map_key: Option<v1::Written>) -> v1::GetEntryResponse {
        self.try_entry(state, notation, map_key).await.unwrap()
    }

    pub fn scan(&self, state: &str) -> v1::ScanEntriesRequest {
        v1::ScanEntriesRequest { job: "job".into(), operator: "op".into(), state: state.into(), ..Default::default() }
    }

    pub async fn try_scan(&self, request: v1::ScanEntriesRequest) -> Result<Vec<v1::ScanEntriesResponse>> {
        let mut answers = self.api.debug().scan_entries(request).await?.into_inner();
        let mut pages = Vec::new();
        while let Some(page) = answers.message().await? {
            pages.push(page);
        }
        Ok(pages)
    }

    pub async fn scanned(&self, request: v1::ScanEntriesRequest) -> Vec<v1::ScanEntriesResponse> {
        self.try_scan(request).await.unwrap()
    }
}
