//! An S3 server in memory as a process of its own, for the demo and for trying things out.

use std::net::Ipv4Addr;

use clap::Parser;
use forebay_integration_tests::s3::{ACCESS_KEY_ID, REGION, S3Server, SECRET_ACCESS_KEY};

/// Serves S3 from memory on 127.0.0.1. What it holds is gone when it ends.
#[derive(Parser)]
struct Args {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Bucket to create.
    #[arg(long, default_value = "forebay")]
    bucket: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let address = (Ipv4Addr::LOCALHOST, args.port).into();
    let server = S3Server::start_at(address, &args.bucket)
        .await
        .map_err(|err| anyhow::anyhow!("cannot listen on {address}: {err}"))?;
    // In the form that a shell can `eval`.
    println!("S3_ENDPOINT={}", server.endpoint());
    println!("S3_URL=s3://{}", args.bucket);
    println!("AWS_ACCESS_KEY_ID={ACCESS_KEY_ID}");
    println!("AWS_SECRET_ACCESS_KEY={SECRET_ACCESS_KEY}");
    println!("AWS_REGION={REGION}");
    server.run().await;
    Ok(())
}
