//! Downloads from servers that answer, lie, break off and stay silent. Real web servers: the scenario
//! `mirrors` of testnet.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use indicatif::ProgressDrawTarget;

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
}

/// A server, which ends with the test. Returns its URL.
fn server(mode: Mode, content: Arc<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/dir/file.img?x=1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let content = Arc::clone(&content);
            std::thread::spawn(move || serve(mode, &content, stream.unwrap()));
        }
    });
    url
}

fn serve(mode: Mode, content: &[u8], mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut range = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            if let Some(asked) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                let (first, last) = asked.trim().split_once('-')?;
                range = Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()? + 1));
            }
        }
        let mut bytes = content.to_vec();
        if mode == Mode::Liar {
            bytes.iter_mut().for_each(|b| *b ^= 1);
        }
        if mode == Mode::Longer {
            bytes.push(0);
        }
        let len = bytes.len();
        let (first, last) = range.filter(|_| mode != Mode::Whole).unwrap_or((0, len));
        let last = last.min(len);
        let status = match (mode, range) {
            (Mode::Broken, _) => "500 Oh".to_owned(),
            (Mode::Whole, _) | (_, None) => "200 OK".to_owned(),
            (Mode::Deaf, _) => {
                format!("206 Partial\r\ncontent-range: bytes 0-{}/{len}", last - first - 1)
            }
            _ => format!("206 Partial\r\ncontent-range: bytes {first}-{}/{len}", last - 1),
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", last - first);
        stream.write_all(head.as_bytes()).ok()?;
        let body = &bytes[first..last];
        if mode == Mode::Cut && body.len() > 1 {
            stream.write_all(&body[..body.len() / 2]).ok()?;
            return None;
        }
        stream.write_all(body).ok()?;
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

fn get(wanted: &Wanted) -> Result<(Vec<u8>, Vec<Gave>), CliError> {
    let dir = tempfile::tempdir().unwrap();
    let downloaded = download(wanted, dir.path(), &bar(), &AtomicBool::new(false))?;
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
    let content = noise((PART * 2) as usize + 1);
    for mode in [Mode::Cut, Mode::Longer, Mode::Broken, Mode::Deaf, Mode::Whole] {
        let (bytes, mirrors) = get(&Wanted {
            size: Some(content.len() as u64),
            ..named(&[mode, Mode::Good], &content)
        })
        .unwrap();
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
    assert!(is_wanted("HTTPS://a/b") && is_wanted("a.meta4") && !is_wanted("a.img"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.meta4");
    let metalink = |inside: &str| {
        let text = format!("<metalink><file name=\"x\">{inside}</file></metalink>");
        std::fs::write(&file, text).unwrap();
        wanted(&[file.display().to_string()], Some(Sum::of(b"")))
    };
    let ftp = metalink("<url>ftp://a/b</url>").unwrap_err();
    assert!(ftp.error.contains("http or https"), "{}", ftp.error);
    let huge = metalink("<size>99999999999999</size><url>http://a/b</url>").unwrap_err();
    assert!(huge.error.contains("more than"), "{}", huge.error);
    let other = format!("<hash type=\"sha-256\">{}</hash><url>http://a/b</url>", Sum::of(b"x"));
    assert!(metalink(&other).unwrap_err().error.contains("another file"));
}
