//! Tokio with two worker threads: tasks, timers, channels and blocking work. With an argument
//! (IP:PORT) also TCP: ten connections at once to a server there that sends back what it gets; with
//! `loopback` the server is this program's own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    tasks().await;
    println!("ok tasks");
    timers().await;
    println!("ok timers");
    let address = match std::env::args().nth(1).as_deref() {
        None => None,
        Some("loopback") => Some(serve().await?),
        Some(address) => Some(address.parse().expect("IP:PORT")),
    };
    if let Some(address) = address {
        tcp(address).await;
        println!("ok tcp");
    }
    println!("all ok");
    Ok(())
}

async fn tasks() {
    let (sender, mut receiver) = mpsc::channel(8);
    for number in 0..50_u64 {
        let sender = sender.clone();
        tokio::spawn(async move {
            let square = spawn_blocking(move || number * number).await.expect("no panic");
            sender.send(square).await.expect("received");
        });
    }
    drop(sender);
    let mut sum = 0;
    while let Some(square) = receiver.recv().await {
        sum += square;
    }
    assert_eq!(sum, 40_425);
}

async fn timers() {
    let start = Instant::now();
    let mut sleeps: JoinSet<()> = (1..=20).map(|n| sleep(Duration::from_millis(n))).collect();
    while sleeps.join_next().await.is_some() {}
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(timeout(Duration::from_millis(5), std::future::pending::<()>()).await.is_err());
}

async fn serve() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    Ok(address)
}

async fn tcp(address: SocketAddr) {
    let mut clients = JoinSet::new();
    for number in 0..10_u8 {
        clients.spawn(async move {
            let stream = TcpStream::connect(address).await.expect("connected");
            let (mut reader, mut writer) = stream.into_split();
            let sent = vec![number; 200_000];
            let expected = sent.clone();
            // Both ways at once: neither side's buffers hold all of it.
            let sender = tokio::spawn(async move {
                writer.write_all(&sent).await.expect("sent");
                writer.shutdown().await.expect("shut");
            });
            let mut seen = Vec::new();
            reader.read_to_end(&mut seen).await.expect("received");
            sender.await.expect("no panic");
            assert!(seen == expected, "the same bytes");
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no panic");
    }
}
