//! `forebayctl state get`: what is asked. How the answer is shown is in `show`.

use clap::Args;
use forebay_proto::v1::{ErrorReason, GetRequest, GetResponse, MapGetRequest, ReadView, StateKind};

use super::{at, place::Place, show};
use crate::{
    arguments::{StateName, Within},
    connection::Connection,
    failure::Failure,
    output::Answer,
    text,
};

/// What to read.
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    state: StateName,
    /// The key; sorted sets have none, but a --key-group.
    #[arg(allow_negative_numbers = true)]
    key: Option<String>,
    /// Only this entry of a map or multimap.
    #[arg(long, value_name = "K", allow_hyphen_values = true, conflicts_with_all = ["prefix", "from", "to"])]
    map_key: Option<String>,
    /// Only map keys or elements that start with this.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prefix: Option<String>,
    /// The first map key or element.
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    from: Option<String>,
    /// End of the map keys or elements, exclusive.
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    to: Option<String>,
    /// At most this many elements, entries or map keys [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Go on after a page, by the token that came with it.
    #[arg(long, value_name = "TOKEN", value_parser = text::token)]
    page: Option<text::Token>,
    /// As of the last completed checkpoint.
    #[arg(long)]
    committed: bool,
    /// As of this completed checkpoint; 0 is the last one.
    #[arg(long, value_name = "CHECKPOINT", conflicts_with_all = ["committed", "prefix", "from", "to", "page"])]
    at: Option<u64>,
    #[command(flatten)]
    within: Within,
}

impl Get {
    /// Reads what is stored under a key, or one entry of a map.
    pub async fn run(self, connection: &Connection) -> Result<Answer, Failure> {
        let place = Place::find(connection, &self.state, self.key.as_deref(), &self.within).await?;
        self.check(place.kind())?;
        if let Some(checkpoint) = self.at {
            let limit = self.limit.unwrap_or_default();
            let found = place.read_at(checkpoint, self.map_key.as_deref(), limit).await?;
            return Ok(at::answer(&place, &found));
        }
        match &self.map_key {
            Some(map_key) if place.kind() != StateKind::Multimap => self.entry(&place, map_key).await,
            _ => self.whole(&place).await,
        }
    }

    /// Refuses what means nothing for the kind, and would be left out of account.
    fn check(&self, kind: StateKind) -> Result<(), Failure> {
        use StateKind::{List, Map, Multimap, SortedSet};
        let refuse = |message| Err(Failure::usage(ErrorReason::FieldInvalid, message));
        let ranged = self.prefix.is_some() || self.from.is_some() || self.to.is_some();
        if ranged && !matches!(kind, Map | Multimap | SortedSet) {
            return refuse("--prefix, --from and --to are for maps, multimaps and sorted sets");
        }
        let paged = self.limit.is_some() || self.page.is_some();
        let one = self.map_key.is_some() && kind == Map;
        if paged && (one || !matches!(kind, List | Map | Multimap | SortedSet)) {
            return refuse("--limit and --page are for lists, maps, multimaps and sorted sets");
        }
        Ok(())
    }

    async fn whole(&self, place: &Place<'_>) -> Result<Answer, Failure> {
        let request = GetRequest {
            address: place.address(),
            view: self.view(),
            limit: self.limit.unwrap_or_default(),
            page_token: self.page.clone().unwrap_or_default().0.into(),
            map_key: place.bound(self.map_key.as_deref())?,
            map_prefix: place.bound(self.prefix.as_deref())?,
            map_start: place.bound(self.from.as_deref())?,
            map_end: place.bound(self.to.as_deref())?,
        };
        let found = place.call(async |mut state| state.get(request.clone()).await).await?;
        show::answer(place, self.map_key.as_deref(), self.page.is_none(), &found)
    }

    async fn entry(&self, place: &Place<'_>, map_key: &str) -> Result<Answer, Failure> {
        let request =
            MapGetRequest { address: place.address(), map_key: Some(place.map_key(map_key)?), view: self.view() };
        let found = place.call(async |mut state| state.map_get(request.clone()).await).await?;
        let found =
            GetResponse { found: found.found, items: found.item.into_iter().collect(), ..GetResponse::default() };
        show::answer(place, Some(map_key), true, &found)
    }

    fn view(&self) -> i32 {
        if self.committed { ReadView::Committed.into() } else { ReadView::Live.into() }
    }
}
