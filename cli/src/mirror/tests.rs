//! Downloads from servers that answer, lie, break off and stay silent. Real web servers: the scenario
//! `mirrors` of testnet.

use std::io::Write;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use indicatif::ProgressDrawTarget;

use super::parts::PART;
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Good,
    /// Knows no ranges.
    Whole,
    /// Sends other bytes, in the right number.
    Liar,
    /// Breaks off in the middle of each answer longer than a byte.
    Cut,
    /// Another file.
    Longer,
    /// Answers 500.
    Broken,
    /// Sends the start of the file, whatever is asked.
    Deaf,
    /// Sends a byte from time to time.
    Trickle,
    /// The same, and knows no ranges.
    TrickleWhole,
    /// Sends the head of an answer and nothing more.
    Silent,
    /// Sends other bytes, and knows no ranges.
    LiarWhole,
    /// Answers 503 to the first look, and to what is asked first after the next.
    Busy,
    /// Has another file after two requests.
    Changing,
    /// Says that it has terabytes.
    Huge,
}

impl Mode {
    fn has_ranges(self) -> bool {
        !matches!(self, Self::Whole | Self::TrickleWhole | Self::LiarWhole)
    }
}

/// A server, which ends with the test. Returns its URL, and how often it was asked.
fn counting(mode: Mode, content: Arc<Vec<u8>>) -> (String, Arc<AtomicUsize>) {
    patient(mode, content, || ())
}

/// The same; after the first look it waits so long before it answers.
fn patient(
    mode: Mode,
    content: Arc<Vec<u8>>,
    wait: impl Fn() + Clone + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/dir/file.img?x=1", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (content, counted) = (Arc::clone(&content), Arc::clone(&counted));
            let wait = wait.clone();
            std::thread::spawn(move || serve(mode, &content, &counted, wait, stream.unwrap()));
        }
    });
    (url, count)
}

fn server(mode: Mode, content: Arc<Vec<u8>>) -> String {
    counting(mode, content).0
}

fn serve(
    mode: Mode,
    content: &[u8],
    count: &AtomicUsize,
    wait: impl Fn(),
    mut stream: TcpStream,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut range, mut if_range) = (None, None);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            let line = line.to_ascii_lowercase();
            if let Some(asked) = line.strip_prefix("range: bytes=") {
                let (first, last) = asked.trim().split_once('-')?;
                range = Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()? + 1));
            }
            if let Some(tag) = line.strip_prefix("if-range: ") {
                if_range = Some(tag.trim().to_owned());
            }
        }
        let asked = count.fetch_add(1, Ordering::SeqCst);
        if asked > 0 {
            wait();
        }
        let changed = mode == Mode::Changing && asked >= 2;
        let tag = if changed { "\"b\"" } else { "\"a\"" };
        let range = range.filter(|_| mode.has_ranges() && if_range.is_none_or(|t| t == tag));
        let mut bytes = content.to_vec();
        if changed || matches!(mode, Mode::Liar | Mode::LiarWhole) {
            bytes.iter_mut().for_each(|b| *b ^= 1);
        }
        if mode == Mode::Longer {
            bytes.push(0);
        }
        let len = bytes.len();
        let (first, last) = range.unwrap_or((0, len));
        let last = last.min(len);
        let said = if mode == Mode::Huge { 15 << 40 } else { len };
        let status = match (mode, range) {
            (Mode::Broken, _) => "500 Oh".to_owned(),
            (Mode::Busy, _) if [0, 2].contains(&asked) => "503 Later".to_owned(),
            (_, None) => "200 OK".to_owned(),
            (Mode::Deaf, _) => {
                format!("206 Partial\r\ncontent-range: bytes 0-{}/{len}", last - first - 1)
            }
            _ => format!("206 Partial\r\ncontent-range: bytes {first}-{}/{said}", last - 1),
        };
        let body = &bytes[first..last];
        let head =
            format!("HTTP/1.1 {status}\r\netag: {tag}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).ok()?;
        match mode {
            Mode::Cut if body.len() > 1 => {
                stream.write_all(&body[..body.len() / 2]).ok()?;
                return None;
            }
            Mode::Trickle | Mode::TrickleWhole => {
                for byte in body {
                    stream.write_all(&[*byte]).ok()?;
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Mode::Silent if body.len() > 1 => {}
            _ => stream.write_all(body).ok()?,
        }
    }
}

fn noise(len: usize) -> Arc<Vec<u8>> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    Arc::new(bytes)
}

fn bar() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
}

fn wanted(names: &[String], sha256: Option<Sum>) -> Result<Wanted, CliError> {
    super::wanted(names, sha256, false, &AtomicBool::new(false))
}

fn get(wanted: &Wanted) -> Result<(Vec<u8>, Vec<Gave>), CliError> {
    let dir = tempfile::tempdir().unwrap();
    let downloaded = download(wanted, dir.path(), &bar(), &AtomicBool::new(false))?;
    assert_eq!(downloaded.vouched, wanted.sha256.is_some() || wanted.pieces.is_some());
    let bytes = std::fs::read(downloaded.path()).unwrap();
    let mirrors = downloaded.mirrors.clone();
    drop(downloaded);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    Ok((bytes, mirrors))
}

fn named(modes: &[Mode], content: &Arc<Vec<u8>>) -> Wanted {
    let urls: Vec<String> = modes.iter().map(|m| server(*m, Arc::clone(content))).collect();
    wanted(&urls, Some(Sum::of(content))).unwrap()
}

fn cut(content: &[u8], length: u64) -> Pieces {
    let pieces = content.chunks(usize::try_from(length).unwrap());
    Pieces { length, hashes: pieces.map(Sum::of).collect() }
}

#[test]
fn parts_come_from_all_mirrors_and_the_whole_is_right() {
    let content = noise((PART * 5 + 17) as usize);
    let wanted = named(&[Mode::Good, Mode::Good], &content);
    assert_eq!(wanted.name, "file.img");
    let (bytes, mirrors) = get(&wanted).unwrap();
    assert!(bytes == *content);
    assert_eq!(mirrors.iter().map(|m| m.bytes).sum::<u64>(), content.len() as u64);
    assert!(mirrors.iter().all(|m| m.failed.is_none()), "{mirrors:?}");
}

#[test]
fn mirrors_that_fail_are_left_out() {
    // a part of one byte could not be cut short
    let content = noise((PART * 2) as usize + 2);
    for mode in [Mode::Cut, Mode::Longer, Mode::Broken, Mode::Deaf, Mode::Whole] {
        let (bad, asked) = counting(mode, Arc::clone(&content));
        // those that look good are to fail before the good one has given all: they are asked on two
        // connections, and then again only because they failed
        let least = if matches!(mode, Mode::Cut | Mode::Deaf) { 5 } else { 1 };
        let until = Instant::now() + Duration::from_secs(20);
        let (good, _) = patient(Mode::Good, Arc::clone(&content), move || {
            while asked.load(Ordering::SeqCst) < least && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let wanted = wanted(&[bad, good], Some(Sum::of(&content))).unwrap();
        let size = Some(content.len() as u64);
        let (bytes, mirrors) = get(&Wanted { size, ..wanted }).unwrap();
        assert!(bytes == *content, "{mode:?}");
        let [bad, good] = mirrors.as_slice() else { panic!("{mirrors:?}") };
        assert!(bad.failed.is_some(), "{mode:?} {bad:?}");
        // what the deaf one sends is right for the first part
        assert!(bad.bytes == 0 || (mode == Mode::Deaf && bad.bytes == PART), "{mode:?} {bad:?}");
        assert_eq!(good.bytes + bad.bytes, content.len() as u64, "{mode:?}");
    }
}

#[test]
fn a_mirror_that_lies_is_found_by_the_sums_of_pieces() {
    let content = noise(1_000_000);
    let pieces = Some(cut(&content, 100_000));
    let wanted = Wanted { pieces, ..named(&[Mode::Liar, Mode::Good], &content) };
    let (bytes, mirrors) = get(&wanted).unwrap();
    assert!(bytes == *content);
    assert!(mirrors[0].failed.as_ref().is_some_and(|r| r.contains("damaged")), "{mirrors:?}");
}

#[test]
fn what_is_not_the_file_is_never_kept() {
    let content = noise(100_000);
    let error = get(&named(&[Mode::Liar], &content)).unwrap_err();
    assert!(error.error.contains("is not file.img"), "{}", error.error);
    let error = get(&named(&[Mode::Broken, Mode::Cut], &content)).unwrap_err();
    assert!(error.error.contains("cannot download"), "{}", error.error);
    assert_eq!(error.hints.len(), 2, "{:?}", error.hints);
    let nobody = wanted(&["http://127.0.0.1:1/f".to_owned()], None).unwrap();
    assert!(get(&nobody).is_err());
}

#[test]
fn servers_without_ranges_will_do() {
    let content = noise(700_001);
    let (bytes, mirrors) = get(&named(&[Mode::Broken, Mode::Whole], &content)).unwrap();
    assert!(bytes == *content);
    assert_eq!(mirrors[1].bytes, content.len() as u64);
}

#[test]
fn a_mirror_that_trickles_does_not_hold_up_the_end() {
    let content = noise((PART * 2) as usize);
    for mode in [Mode::Trickle, Mode::Silent] {
        let (bytes, mirrors) = get(&named(&[mode, Mode::Good], &content)).unwrap();
        assert!(bytes == *content);
        assert_eq!((mirrors[0].bytes, mirrors[1].bytes), (0, content.len() as u64));
        // it was broken off, and did not come to its end in one way or another
        assert_eq!(mirrors[0].failed, None);
    }
}

#[test]
fn a_mirror_that_trickles_is_stopped_and_is_too_slow_in_the_end() {
    let content = noise((PART * 2) as usize);
    let dir = tempfile::tempdir().unwrap();
    for mode in [Mode::Trickle, Mode::TrickleWhole, Mode::Silent] {
        let (url, count) = counting(mode, Arc::clone(&content));
        let wanted = wanted(&[url], None).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let stopper = std::thread::spawn(move || {
            while count.load(Ordering::SeqCst) < 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            stopped.store(true, Ordering::Relaxed);
        });
        let error = download(&wanted, dir.path(), &bar(), &stop).unwrap_err();
        assert_eq!(error.error, "interrupted", "{mode:?}");
        stopper.join().unwrap();
    }
    let least = Least { bytes: 1 << 20, within: Duration::from_millis(200) };
    for mode in [Mode::Trickle, Mode::TrickleWhole] {
        let wanted = named(&[mode], &content);
        let never = AtomicBool::new(false);
        let error = download_at(least, &wanted, dir.path(), &bar(), &never).unwrap_err();
        assert!(error.hints[0].contains("too slowly"), "{mode:?} {:?}", error.hints);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn with_one_sum_alone_each_mirror_is_asked_for_the_whole() {
    let content = noise((PART * 8) as usize);
    let len = content.len() as u64;
    let (bytes, mirrors) = get(&named(&[Mode::Liar, Mode::Good], &content)).unwrap();
    assert!(bytes == *content);
    assert_eq!((mirrors[0].bytes, mirrors[1].bytes), (0, len));
    let reason = mirrors[0].failed.as_ref().unwrap();
    assert!(reason.contains("another file") && reason.contains("SHA-256"), "{reason}");

    let error = get(&named(&[Mode::Liar, Mode::Liar], &content)).unwrap_err();
    assert!(error.error.contains("is not file.img"), "{}", error.error);
    assert_eq!(error.hints.len(), 3, "{:?}", error.hints);
}

#[test]
fn a_mirror_that_is_busy_for_a_moment_is_asked_again() {
    let content = noise((PART * 3) as usize);
    let (bytes, mirrors) = get(&named(&[Mode::Busy], &content)).unwrap();
    assert!(bytes == *content);
    assert!(mirrors[0].failed.as_ref().unwrap().contains("503"), "{mirrors:?}");
}

#[test]
fn a_file_that_changes_meanwhile_is_not_torn() {
    let content = noise((PART * 3) as usize);
    let wanted = wanted(&[server(Mode::Changing, Arc::clone(&content))], None).unwrap();
    let (bytes, _) = get(&wanted).unwrap();
    let later: Vec<u8> = content.iter().map(|b| b ^ 1).collect();
    assert!(bytes == later, "the whole of what is there now");
}

#[test]
fn a_mirror_without_ranges_is_used_when_no_other_is_left() {
    let content = noise((PART + 1) as usize);
    let (bytes, mirrors) = get(&named(&[Mode::Cut, Mode::Whole], &content)).unwrap();
    assert!(bytes == *content);
    assert_eq!((mirrors[0].bytes, mirrors[1].bytes), (0, content.len() as u64));
    assert!(mirrors[0].failed.is_some() && mirrors[1].failed.is_none(), "{mirrors:?}");
}

#[test]
fn sums_of_pieces_are_used_when_they_are_those_of_the_file() {
    let content = noise(300_000);
    let pieces = |length| Some(cut(&content, length));
    let of = |modes: &[Mode], pieces, sha256| Wanted { pieces, sha256, ..named(modes, &content) };
    // short ones too, several at a time; alone they vouch for it
    for modes in [&[Mode::Good][..], &[Mode::Whole], &[Mode::Huge, Mode::Good]] {
        for length in [1000, 100_000] {
            let (bytes, _) = get(&of(modes, pieces(length), None)).unwrap();
            assert!(bytes == *content, "{modes:?} {length}");
        }
    }
    let error = get(&of(&[Mode::LiarWhole], pieces(1000), None)).unwrap_err();
    assert!(error.error.contains("piece 0"), "{}", error.error);
    // a byte for each of three sums, and terabytes
    let few = || Some(Pieces { length: 1, hashes: vec![Sum::of(b"a"); 3] });
    for mode in [Mode::Huge, Mode::Good, Mode::Whole] {
        let error = get(&of(&[mode], few(), None)).unwrap_err();
        assert!(error.error.contains("other lengths"), "{mode:?} {}", error.error);
    }
    // with a sum of the whole they are passed over
    let (bytes, _) = get(&of(&[Mode::Good], few(), Some(Sum::of(&content)))).unwrap();
    assert!(bytes == *content);
}

#[test]
fn it_stops_when_it_is_told_to() {
    let content = noise((PART * 3) as usize);
    let dir = tempfile::tempdir().unwrap();
    for mode in [Mode::Good, Mode::Whole] {
        let wanted = named(&[mode], &content);
        let error = download(&wanted, dir.path(), &bar(), &AtomicBool::new(true)).unwrap_err();
        assert_eq!(error.error, "interrupted");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_asked_for_is_made_out() {
    let url = |n: u8| format!("http://h{n}/disk.img");
    let one = wanted(&[url(1)], None).unwrap();
    assert_eq!((one.name.as_str(), one.sha256), ("disk.img", None));
    let error = wanted(&[url(1), url(2)], None).unwrap_err();
    assert!(error.hints[0].contains("--sha256"), "{:?}", error.hints);
    assert!(wanted(&[url(1), "disk.img".to_owned()], None).is_err());
    let many: Vec<String> = (0..40).map(url).collect();
    assert_eq!(wanted(&many, Some(Sum::of(b""))).unwrap().urls.len(), MIRRORS);
    let is = |name| is_wanted(name, false);
    assert!(is("HTTPS://a/b") && is("a.meta4") && !is("a.img"));
    assert!(is_wanted("https://a/b.meta4", true) && !is_wanted("a.meta4", true));
    let itself = [url(1) + ".meta4"];
    let itself = super::wanted(&itself, None, true, &AtomicBool::new(false)).unwrap();
    assert_eq!((itself.name.as_str(), itself.urls.len()), ("disk.img.meta4", 1));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.meta4");
    let described = |inside: &str, sha256| {
        let text = format!("<metalink><file name=\"x\">{inside}</file></metalink>");
        std::fs::write(&file, text).unwrap();
        wanted(&[file.display().to_string()], sha256)
    };
    let two = "<url>http://a/b</url><url>http://c/d</url>";
    let unsure = described(two, None).unwrap_err();
    assert!(unsure.hints[0].contains("--sha256"), "{:?}", unsure.hints);
    let sum = Sum::of(b"x");
    let sums = format!("<pieces length=\"1\" type=\"sha-256\"><hash>{sum}</hash></pieces>{two}");
    assert!(described(&sums, None).is_ok() && described(two, Some(sum)).is_ok());
    let metalink = |inside: &str| described(inside, Some(Sum::of(b"")));
    let ftp = metalink("<url>ftp://a/b</url>").unwrap_err();
    assert!(ftp.error.contains("http or https"), "{}", ftp.error);
    let huge = metalink("<size>99999999999999</size><url>http://a/b</url>").unwrap_err();
    assert!(huge.error.contains("more than"), "{}", huge.error);
    let other = format!("<hash type=\"sha-256\">{}</hash><url>http://a/b</url>", Sum::of(b"x"));
    assert!(metalink(&other).unwrap_err().error.contains("another file"));
}
