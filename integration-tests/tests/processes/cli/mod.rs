//! `forebayctl` as its users meet it: the real binary against a real `forebay dev`.

mod bench;
mod checkpoints;
mod ctl;
mod jobs;
mod kinds;
mod reads;
mod states;
mod wrong;

use forebay_integration_tests::harness::binary;

use crate::session;

#[tokio::test]
async fn the_guide_to_forebayctl_holds() {
    let folder = binary("forebayctl");
    session::holds("docs/forebayctl.md", "forebayctl", folder.parent().expect("a binary is in a folder")).await;
}
