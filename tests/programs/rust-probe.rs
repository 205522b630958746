//! What ordinary Rust programs do with the standard library, each step checked and named: threads,
//! locks, channels, files, clocks, hashing, panics. With an argument (IP:PORT) also TCP: several
//! connections at once to a server there that answers each line in capitals; with `loopback` the
//! server is this program's own. Prints "ok NAME" per step and "all ok".

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

fn main() {
    let steps: [(&str, fn()); 8] = [
        ("threads", threads),
        ("condvar", condvar),
        ("channel", channel),
        ("files", files),
        ("clocks", clocks),
        ("hashing", hashing),
        ("panic", panics),
        ("memory", memory),
    ];
    for (name, step) in steps {
        step();
        println!("ok {name}");
    }
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("loopback") => loopback(),
        Some(address) => tcp(address.parse().expect("IP:PORT")),
    }
    println!("all ok");
}

fn threads() {
    let (count, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Barrier::new(8)));
    let workers: Vec<_> = (0..8_u64)
        .map(|number| {
            let (count, gate) = (count.clone(), gate.clone());
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    gate.wait();
                    for _ in 0..1000 {
                        count.fetch_add(number, Ordering::Relaxed);
                    }
                    thread::current().name().map(str::len)
                })
                .expect("a thread")
        })
        .collect();
    for worker in workers {
        assert_eq!(worker.join().expect("no panic"), Some(8));
    }
    assert_eq!(count.load(Ordering::Relaxed), 28_000);
}

fn condvar() {
    let turn = Arc::new((Mutex::new(0_u32), Condvar::new()));
    let other = turn.clone();
    let player = thread::spawn(move || play(&other, 1));
    play(&turn, 0);
    player.join().expect("no panic");
    let (lock, signal) = &*turn;
    let guard = lock.lock().expect("not poisoned");
    let start = Instant::now();
    let waited = signal.wait_timeout(guard, Duration::from_millis(20)).expect("not poisoned");
    assert!(waited.1.timed_out() && start.elapsed() >= Duration::from_millis(20));
}

/// Two players move in turn, 100 times each.
fn play((lock, signal): &(Mutex<u32>, Condvar), me: u32) {
    for _ in 0..100 {
        let mut turn = lock.lock().expect("not poisoned");
        while *turn % 2 != me {
            turn = signal.wait(turn).expect("not poisoned");
        }
        *turn += 1;
        signal.notify_all();
    }
}

fn channel() {
    let (sender, receiver) = mpsc::sync_channel(4);
    let workers: Vec<_> = (0..4_u64)
        .map(|number| {
            let sender = sender.clone();
            thread::spawn(move || (0..250).for_each(|_| sender.send(number).expect("received")))
        })
        .collect();
    drop(sender);
    assert_eq!(receiver.iter().sum::<u64>(), 250 * 6);
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
}

const CLIENTS: usize = 3;

/// A thread each, all connected before the first speaks.
fn tcp(address: SocketAddr) {
    let gate = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let gate = gate.clone();
            thread::spawn(move || speak(address, number, &gate))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    println!("ok tcp");
}

fn speak(address: SocketAddr, number: usize, gate: &Barrier) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an option");
    assert_eq!(stream.peer_addr().expect("connected"), address);
    gate.wait();
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    for round in 0..100 {
        writeln!(stream, "hello {number} {round}").expect("sent");
        let mut answer = String::new();
        reader.read_line(&mut answer).expect("received");
        assert_eq!(answer, format!("HELLO {number} {round}\n"));
    }
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("received");
    assert_eq!(rest, "");
}

fn loopback() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = thread::spawn(move || {
        let sessions: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (stream, peer) = listener.accept().expect("a client");
                assert!(peer.ip().is_loopback());
                thread::spawn(move || answer(&stream))
            })
            .collect();
        sessions.into_iter().for_each(|session| session.join().expect("no panic"));
    });
    tcp(address);
    server.join().expect("no panic");
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

fn answer(stream: &TcpStream) {
    for line in BufReader::new(stream).lines() {
        let line = line.expect("a line").to_uppercase();
        writeln!(&*stream, "{line}").expect("sent");
    }
}

fn files() {
    let folder = std::env::temp_dir().join("probe");
    fs::create_dir(&folder).expect("a folder");
    let path = folder.join("data");
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&path, &bytes).expect("written");
    assert_eq!(fs::read(&path).expect("read"), bytes);
    assert_eq!(fs::metadata(&path).expect("there").len(), 400_000);
    fs::rename(&path, folder.join("moved")).expect("renamed");
    let names: Vec<_> = fs::read_dir(&folder).expect("listed").collect();
    assert_eq!(names.len(), 1);
    assert!(fs::read(&path).is_err());
    fs::remove_dir_all(&folder).expect("removed");
    assert!(!folder.exists());
}

fn clocks() {
    let (start, day) = (Instant::now(), SystemTime::now());
    thread::sleep(Duration::from_millis(15));
    assert!(start.elapsed() >= Duration::from_millis(15));
    assert!(day.elapsed().expect("forward") >= Duration::from_millis(14));
    let since = day.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    assert!(since > Duration::from_secs(1_700_000_000), "the clock is set");
    let mut last = Instant::now();
    for _ in 0..10_000 {
        let now = Instant::now();
        assert!(now >= last);
        last = now;
    }
}

fn hashing() {
    let words: HashMap<String, usize> = (0..5000).map(|n| (format!("word {n}"), n)).collect();
    assert!((0..5000).all(|n| words[&format!("word {n}")] == n));
}

fn panics() {
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(|| panic!("on purpose"));
    assert!(caught.is_err());
    assert!(thread::spawn(|| panic!("in a thread")).join().is_err());
    drop(std::panic::take_hook());
}

fn memory() {
    let mut bytes = Vec::new();
    for size in [1 << 10, 1 << 16, 1 << 20, 8 << 20] {
        bytes.resize(size, 7_u8);
    }
    assert_eq!(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 7 * (8 << 20));
    bytes.truncate(10);
    bytes.shrink_to_fit();
    assert_eq!(bytes, [7; 10]);
}
