//! A web service (axum) that reports the health of its tree: 200 when all that is wanted is ready, else 503.
//!
//! `cargo run --example health_service`

use axum::http::StatusCode;
use axum::{Router, extract::State, routing::get};
use pepita_supervisor::{GroupName, GroupSpec, MachineSpec, Tree, TreeSpec, VmName, VmPhase, VmSpec};
use std::error::Error;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut vm = VmSpec::new(VmName::new("api")?, MachineSpec::process());
    vm.command = ["/bin/sleep", "600"].map(str::to_owned).into();
    let mut spec = TreeSpec::new("health");
    spec.groups.push(GroupSpec::new(GroupName::new("web")?, vec![vm]));
    let tree = Tree::start(spec).await?;

    let service = Router::new().route("/health", get(health)).with_state(tree.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let ended = tree.clone();
    let shutdown = async move { drop(ended.wait().await) };
    let serving =
        tokio::spawn(async { axum::serve(listener, service).with_graceful_shutdown(shutdown).await });

    // This example asks its own service, and ends. A real service would run until its tree ends.
    tree.wait_ready(Duration::from_secs(60)).await?;
    println!("{}", ask(address).await?);
    let mut events = tree.events_after(tree.newest_event());
    tree.pause("api").await?;
    events.next().await;
    println!("{}", ask(address).await?);
    println!("{}", tree.stop().await);
    Ok(serving.await??)
}

async fn health(State(tree): State<Tree>) -> (StatusCode, String) {
    let status = tree.status();
    let well = status.vms().filter(|vm| vm.wanted).all(|vm| vm.phase == VmPhase::Ready);
    let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, status.to_json().to_string())
}

async fn ask(address: std::net::SocketAddr) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (first, last) = (answer.lines().next(), answer.lines().last());
    Ok(format!("{} {}", first.unwrap_or_default(), last.unwrap_or_default()))
}
