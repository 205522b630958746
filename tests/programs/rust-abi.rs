//! What Rust programs do with the standard library beyond `rust-probe`, each step checked and
//! named: files and their metadata, scoped threads, thread-locals, parking, sockets with time
//! limits, standard streams. Prints "ok NAME" per step and "all ok".

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

fn main() {
    let steps: [(&str, fn()); 12] = [
        ("environment", environment),
        ("metadata", metadata),
        ("seeking", seeking),
        ("folders", folders),
        ("locking", locking),
        ("copying", copying),
        ("scoped", scoped),
        ("locals", locals),
        ("poisoned", poisoned),
        ("waiting", waiting),
        ("sockets", sockets),
        ("depth", depth),
    ];
    for (name, step) in steps {
        step();
        println!("ok {name}");
    }
    println!("all ok");
}

fn environment() {
    assert_eq!(std::env::args().count(), 1);
    assert!(std::env::var_os("PATH").is_some());
    assert!(std::env::current_exe().unwrap().is_absolute());
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir("/tmp").unwrap();
    assert_eq!(std::env::current_dir().unwrap(), Path::new("/tmp"));
    std::env::set_current_dir(before).unwrap();
    assert!(thread::available_parallelism().unwrap().get() >= 1);
    assert!(std::process::id() > 0);
}

fn metadata() {
    let path = Path::new("/tmp/rust-metadata");
    fs::write(path, "12345").unwrap();
    let found = fs::metadata(path).unwrap();
    assert!(found.is_file() && found.len() == 5 && found.nlink() == 1);
    assert!(found.modified().unwrap().elapsed().unwrap() < Duration::from_secs(60));
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o600);
    let file = File::options().write(true).open(path).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_times(fs::FileTimes::new().set_modified(long_ago)).unwrap();
    assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), long_ago);
    fs::hard_link(path, "/tmp/rust-link").unwrap();
    assert_eq!(fs::metadata(path).unwrap().nlink(), 2);
    symlink(path, "/tmp/rust-symlink").unwrap();
    assert!(fs::symlink_metadata("/tmp/rust-symlink").unwrap().is_symlink());
    assert_eq!(fs::read_link("/tmp/rust-symlink").unwrap(), path);
    assert_eq!(fs::canonicalize("/tmp/rust-symlink").unwrap(), path);
    assert_eq!(fs::read_to_string("/tmp/rust-symlink").unwrap(), "12345");
    for name in ["/tmp/rust-symlink", "/tmp/rust-link", "/tmp/rust-metadata"] {
        fs::remove_file(name).unwrap();
    }
    assert_eq!(fs::metadata(path).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::create_dir("/tmp").unwrap_err().kind(), ErrorKind::AlreadyExists);
}

fn seeking() {
    let path = "/tmp/rust-seek";
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(path).unwrap();
    file.write_all(b"hello world").unwrap();
    assert_eq!(file.seek(SeekFrom::End(-5)).unwrap(), 6);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "world");
    file.write_all_at(b"HELLO", 0).unwrap();
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"HELLO");
    file.set_len(3).unwrap();
    file.set_len(10).unwrap();
    file.rewind().unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"HEL\0\0\0\0\0\0\0");
    file.sync_all().unwrap();
    let mut writer = BufWriter::new(File::create(path).unwrap());
    (0..10_000).for_each(|line| writeln!(writer, "line {line}").unwrap());
    writer.into_inner().unwrap().sync_data().unwrap();
    assert_eq!(BufReader::new(File::open(path).unwrap()).lines().count(), 10_000);
    let mut more = OpenOptions::new().append(true).open(path).unwrap();
    more.write_all(b"end").unwrap();
    assert!(fs::read_to_string(path).unwrap().ends_with("line 9999\nend"));
    fs::remove_file(path).unwrap();
}

fn folders() {
    fs::create_dir_all("/tmp/rust/a/b/c").unwrap();
    for number in 0..50 {
        fs::write(format!("/tmp/rust/a/{number}"), number.to_string()).unwrap();
    }
    let mut names: Vec<_> = fs::read_dir("/tmp/rust/a")
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap().parse::<u32>().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, (0..50).collect::<Vec<_>>());
    assert_eq!(fs::remove_dir("/tmp/rust/a").unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    fs::rename("/tmp/rust/a", "/tmp/rust/moved").unwrap();
    fs::remove_dir_all("/tmp/rust").unwrap();
    assert!(!Path::new("/tmp/rust").exists());
}

fn locking() {
    let path = "/tmp/rust-lock";
    let (first, second) = (File::create(path).unwrap(), File::create(path).unwrap());
    first.lock().unwrap();
    assert!(second.try_lock().is_err());
    let waiter = thread::spawn(move || second.lock().map(|()| second));
    thread::sleep(Duration::from_millis(10));
    first.unlock().unwrap();
    let second = waiter.join().unwrap().unwrap();
    assert!(first.try_lock_shared().is_err());
    drop(second);
    first.try_lock_shared().unwrap();
    fs::remove_file(path).unwrap();
}

fn copying() {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    fs::write("/tmp/rust-from", &bytes).unwrap();
    assert_eq!(fs::copy("/tmp/rust-from", "/tmp/rust-to").unwrap(), 3_000_000);
    assert_eq!(fs::read("/tmp/rust-to").unwrap(), bytes);
    let (mut near, mut far) = UnixStream::pair().unwrap();
    let sender = thread::spawn(move || {
        io::copy(&mut File::open("/tmp/rust-from").unwrap(), &mut near).unwrap()
    });
    let mut received = Vec::new();
    far.read_to_end(&mut received).unwrap();
    assert_eq!((sender.join().unwrap(), received == bytes), (3_000_000, true));
    let (mut reader, mut writer) = io::pipe().unwrap();
    let sender = thread::spawn(move || io::copy(&mut &bytes[..], &mut writer).unwrap());
    assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), 3_000_000);
    sender.join().unwrap();
    fs::remove_file("/tmp/rust-from").unwrap();
    fs::remove_file("/tmp/rust-to").unwrap();
}

fn scoped() {
    let mut parts = vec![0_u64; 1000];
    let total = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (number, part) in parts.chunks_mut(100).enumerate() {
            let total = &total;
            scope.spawn(move || {
                part.iter_mut().for_each(|value| *value = number as u64);
                total.fetch_add(part.len(), Ordering::Relaxed);
            });
        }
    });
    assert_eq!((total.into_inner(), parts.iter().sum::<u64>()), (1000, 4500));
}

static DROPPED: AtomicUsize = AtomicUsize::new(0);

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

fn locals() {
    thread_local! {
        static OWN: RefCell<(u32, Option<Guard>)> = const { RefCell::new((0, None)) };
    }
    static ONCE: OnceLock<u32> = OnceLock::new();
    let threads: Vec<_> = (0..20)
        .map(|number| {
            thread::spawn(move || {
                OWN.with_borrow_mut(|own| *own = (number, Some(Guard)));
                thread::yield_now();
                ONCE.get_or_init(|| 7);
                OWN.with_borrow(|own| own.0)
            })
        })
        .collect();
    for (number, thread) in (0..).zip(threads) {
        assert_eq!(thread.join().unwrap(), number);
    }
    assert_eq!((DROPPED.load(Ordering::SeqCst), ONCE.get()), (20, Some(&7)));
}

fn poisoned() {
    std::panic::set_hook(Box::new(|_| {}));
    let lock = Arc::new(Mutex::new(1));
    let shared = lock.clone();
    let thread = thread::spawn(move || {
        let _held = shared.lock().unwrap();
        panic!("on purpose");
    });
    assert_eq!(*thread.join().unwrap_err().downcast::<&str>().unwrap(), "on purpose");
    assert!(lock.is_poisoned() && *lock.lock().unwrap_err().into_inner() == 1);
    let nested = std::panic::catch_unwind(|| {
        let _guard = Guard;
        let numbers: Vec<u32> = Vec::new();
        numbers[3]
    });
    assert!(nested.is_err());
    drop(std::panic::take_hook());
}

fn waiting() {
    let started = Instant::now();
    let parked = thread::spawn(|| thread::park());
    thread::park_timeout(Duration::from_millis(20));
    parked.thread().unpark();
    parked.join().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(19));
    let (sender, receiver) = mpsc::channel::<u32>();
    let wait = Duration::from_millis(15);
    assert_eq!(receiver.recv_timeout(wait), Err(mpsc::RecvTimeoutError::Timeout));
    thread::spawn(move || sender.send(5).unwrap());
    assert_eq!((receiver.recv(), receiver.recv()), (Ok(5), Err(mpsc::RecvError)));
    let numbers = Arc::new(RwLock::new(0));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let numbers = numbers.clone();
            thread::spawn(move || {
                for _ in 0..500 {
                    *numbers.write().unwrap() += 1;
                    assert!(*numbers.read().unwrap() > 0);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*numbers.read().unwrap(), 4000);
}

fn sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    listener.set_nonblocking(false).unwrap();
    let client = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!((peer, client.peer_addr().unwrap()), (client.local_addr().unwrap(), address));
    server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // More than fits on the way, both directions at once.
    let sent = vec![9_u8; 1 << 20];
    server.set_read_timeout(None).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = client.try_clone().unwrap();
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            let mut received = Vec::new();
            server.read_to_end(&mut received).unwrap();
            server.write_all(&received).unwrap();
            server.shutdown(Shutdown::Both).unwrap();
        });
        let mut back = Vec::new();
        (&client).read_to_end(&mut back).unwrap();
        assert!(back == sent);
    });
    drop(listener);
    assert!(TcpStream::connect(address).is_err());
    let v6 = TcpListener::bind("[::1]:0").unwrap();
    let client = TcpStream::connect(v6.local_addr().unwrap()).unwrap();
    assert!(v6.accept().unwrap().1.is_ipv6());
    drop(client);
    let threads: Vec<_> = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients = (0..32).map(|number: u8| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(&[number]).unwrap();
                let mut answer = [0];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [number + 1]);
            })
        });
        let clients = clients.collect();
        for stream in listener.incoming().take(32) {
            let mut stream = stream.unwrap();
            let mut question = [0];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&[question[0] + 1]).unwrap();
        }
        clients
    };
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn depth() {
    fn nested(depth: u64) -> u64 {
        let room = std::hint::black_box([depth; 16]);
        if depth == 0 { 0 } else { nested(depth - 1) + room[3] - depth + 1 }
    }
    let big = thread::Builder::new().stack_size(32 << 20);
    assert_eq!(big.spawn(|| nested(100_000)).unwrap().join().unwrap(), 100_000);
    let mut large: Vec<u64> = Vec::with_capacity(4_000_000);
    large.extend(0..4_000_000);
    assert_eq!(large.iter().sum::<u64>(), 7_999_998_000_000);
    let boxes: Vec<Box<[u8; 100]>> = (0..100_000).map(|n| Box::new([n as u8; 100])).collect();
    assert!(boxes.iter().enumerate().all(|(n, bytes)| bytes[99] == n as u8));
}
