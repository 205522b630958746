//! Tokio with two worker threads: tasks, timers, channels, blocking work and TCP on the loopback
//! address. With an argument (IP:PORT) it also connects there, sends a line and prints the answer.

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
    tcp().await?;
    println!("ok tcp");
    if let Some(address) = std::env::args().nth(1) {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"hello from tokio-probe\n").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        println!("answer {}", answer.trim());
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

async fn tcp() -> std::io::Result<()> {
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
    let mut clients = JoinSet::new();
    for number in 0..10_u8 {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            let (mut sent, mut seen) = (vec![number; 20_000], Vec::new());
            stream.write_all(&sent).await.expect("sent");
            stream.shutdown().await.expect("shut");
            stream.read_to_end(&mut seen).await.expect("received");
            assert!(sent == seen, "the same bytes");
            sent.clear();
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no panic");
    }
    Ok(())
}
