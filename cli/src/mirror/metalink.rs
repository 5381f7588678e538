//! Metalink files: where a file can be had, and what it must hash to. Version 4 (RFC 5854), and the
//! same of version 3 (metalinker.org).
//!
//! Read are the name, the size, SHA-256 of the whole and of its pieces, and the URLs in the order in which the
//! file prefers them. Other hashes, signatures and torrents are passed over.

use roxmltree::{Document, Node, ParsingOptions};

use super::sum::Sum;
use super::{Pieces, Wanted};
use crate::error::CliError;

/// The longest Metalink file that is read: hashes of a terabyte in pieces of 4 MiB are about 30 MB.
pub(super) const MAX: u64 = 32 << 20;
/// Elements, texts and attributes of one.
const NODES: u32 = 2_000_000;
/// Longer pieces would not fit into memory a few at a time: they are not looked at.
const LONGEST_PIECE: u64 = 16 << 20;

/// Whether a file or URL is a Metalink by its name.
pub(super) fn is_named(name: &str) -> bool {
    let path = name.split(['?', '#']).next().unwrap_or_default();
    [".meta4", ".metalink"].iter().any(|ext| path.to_ascii_lowercase().ends_with(ext))
}

/// Reads a Metalink that describes one file.
pub(super) fn parse(text: &str, shown: &str) -> Result<Wanted, CliError> {
    let bad =
        |why: &str| CliError::failed(format!("{shown} is no Metalink that can be used: {why}"));
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..Default::default() };
    let document = Document::parse_with_options(text, options).map_err(|e| bad(&e.to_string()))?;
    let root = document.root_element();
    if !is(&root, "metalink") {
        return Err(bad("its outermost element is not `metalink`"));
    }
    // version 3 has one more level around files
    let outer = child(&root, "files").unwrap_or(root);
    let files: Vec<Node> = outer.children().filter(|n| is(n, "file")).collect();
    let file = match files.as_slice() {
        [] => return Err(bad("it describes no file")),
        [file] => *file,
        many => {
            let names = many.iter().filter_map(|f| f.attribute("name")).take(5);
            let names = names.collect::<Vec<_>>().join(", ");
            return Err(bad(&format!("it describes {} files ({names}), not one", many.len())));
        }
    };
    let size = child(&file, "size").map(|n| content(&n).parse());
    let size = size.transpose().map_err(|_| bad("its size is no number"))?;
    let hashes = child(&file, "verification").unwrap_or(file);
    let sha256 = hashes.children().find(|n| is(n, "hash") && is_sha256(n)).map(|n| digest(&n));
    let sha256 = sha256.transpose().map_err(|()| bad("a hash is no SHA-256"))?;
    let pieces = hashes.children().find(|n| is(n, "pieces") && is_sha256(n));
    let pieces = pieces.map(|n| read_pieces(&n)).transpose();
    let pieces = pieces.map_err(|()| bad("the hashes of its pieces cannot be read"))?;
    let pieces = pieces.filter(|p| p.length <= LONGEST_PIECE);
    if let (Some(size), Some(pieces)) = (size, &pieces)
        && !pieces.fit(size)
    {
        return Err(bad("it has not one hash for each piece"));
    }
    let name = file.attribute("name").and_then(|n| n.rsplit('/').next()).unwrap_or(shown);
    Ok(Wanted { name: name.to_owned(), size, sha256, pieces, urls: urls(&file) })
}

fn read_pieces(node: &Node) -> Result<Pieces, ()> {
    let length = node.attribute("length").and_then(|l| l.parse().ok()).filter(|l| *l > 0);
    let mut hashes: Vec<(u64, Sum)> = Vec::new();
    for (at, hash) in node.children().filter(|n| is(n, "hash")).enumerate() {
        // version 3 numbers them
        let number = hash.attribute("piece").map_or(Ok(at as u64), str::parse).map_err(drop)?;
        hashes.push((number, digest(&hash)?));
    }
    hashes.sort_by_key(|(number, _)| *number);
    let whole = hashes.iter().enumerate().all(|(at, (number, _))| *number == at as u64);
    let hashes = hashes.into_iter().map(|(_, hash)| hash).collect();
    whole.then_some(Pieces { length: length.ok_or(())?, hashes }).ok_or(())
}

/// URLs, best first: by `priority` (1 is best), in version 3 by `preference` (100 is best).
fn urls(file: &Node) -> Vec<String> {
    let resources = child(file, "resources").unwrap_or(*file);
    let rank = |n: &Node| {
        let number = |name| n.attribute(name).and_then(|v| v.parse::<i64>().ok());
        number("priority").or(number("preference").map(|p| -p)).unwrap_or(i64::MAX)
    };
    let mut urls: Vec<(i64, String)> = resources
        .children()
        .filter(|n| is(n, "url"))
        .map(|n| (rank(&n), content(&n).to_owned()))
        .collect();
    urls.sort_by_key(|(rank, _)| *rank);
    urls.into_iter().map(|(_, url)| url).collect()
}

fn is(node: &Node, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

fn child<'a, 'd>(node: &Node<'a, 'd>, name: &str) -> Option<Node<'a, 'd>> {
    node.children().find(|n| is(n, name))
}

fn content<'a>(node: &Node<'a, '_>) -> &'a str {
    node.text().unwrap_or_default().trim()
}

fn is_sha256(node: &Node) -> bool {
    matches!(node.attribute("type"), Some("sha-256" | "sha256"))
}

fn digest(node: &Node) -> Result<Sum, ()> {
    content(node).parse().map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    fn version4(inside: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">\
             <file name=\"a/disk.img\">{inside}</file></metalink>"
        )
    }

    #[test]
    fn version_4_is_read() {
        let inside = format!(
            "<size>10</size><hash type=\"md5\">00</hash><hash type=\"sha-256\">{}</hash>\
             <pieces length=\"6\" type=\"sha-256\"><hash>{}</hash><hash>{}</hash></pieces>\
             <metaurl mediatype=\"torrent\">http://t/</metaurl>\
             <url priority=\"2\">http://b/f</url><url>http://c/f</url>\
             <url priority=\"1\"> https://a/f </url>",
            hex(1).to_uppercase(),
            hex(2),
            hex(3)
        );
        let wanted = parse(&version4(&inside), "x.meta4").unwrap();
        let urls = ["https://a/f", "http://b/f", "http://c/f"].map(String::from).to_vec();
        let pieces = Some(Pieces { length: 6, hashes: vec![Sum([2; 32]), Sum([3; 32])] });
        let sha256 = Some(Sum([1; 32]));
        let expected = Wanted { name: "disk.img".to_owned(), size: Some(10), sha256, pieces, urls };
        assert_eq!(wanted, expected);
    }

    #[test]
    fn version_3_is_read() {
        let text = format!(
            "<metalink version=\"3.0\" xmlns=\"http://www.metalinker.org/\"><files>\
             <file name=\"d.iso\"><size>10</size><verification><hash type=\"sha256\">{}</hash>\
             <pieces length=\"6\" type=\"sha256\"><hash piece=\"1\">{}</hash>\
             <hash piece=\"0\">{}</hash></pieces></verification>\
             <resources><url type=\"http\" preference=\"10\">http://b/</url>\
             <url type=\"ftp\" preference=\"90\">ftp://a/</url></resources></file></files></metalink>",
            hex(1),
            hex(2),
            hex(3)
        );
        let wanted = parse(&text, "x.metalink").unwrap();
        assert_eq!(wanted.urls, ["ftp://a/", "http://b/"]);
        assert_eq!((wanted.size, wanted.sha256), (Some(10), Some(Sum([1; 32]))));
        assert_eq!(wanted.pieces.unwrap().hashes, [Sum([3; 32]), Sum([2; 32])]);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_reason() {
        let file = "<file name=\"a\"/>";
        let cases = [
            ("<metalink>", "no Metalink"),
            ("<html/>", "outermost"),
            ("<metalink/>", "no file"),
            (&format!("<metalink>{file}{file}</metalink>"), "2 files (a, a)"),
            (&version4("<size>ten</size>"), "no number"),
            (&version4("<hash type=\"sha-256\">12</hash>"), "no SHA-256"),
            (&version4("<pieces length=\"0\" type=\"sha-256\"/>"), "pieces"),
            (
                &version4("<size>7</size><pieces length=\"6\" type=\"sha-256\"></pieces>"),
                "one hash for each piece",
            ),
            (
                "<!DOCTYPE m [<!ENTITY a \"b\">]><metalink><file name=\"&a;\"/></metalink>",
                "no Metalink",
            ),
        ];
        for (text, why) in cases {
            let error = parse(text, "x.meta4").unwrap_err().error;
            assert!(error.contains(why), "{text}: {error}");
        }
        for (length, used) in [(LONGEST_PIECE, true), (LONGEST_PIECE + 1, false)] {
            let hash = hex(1);
            let long = format!(
                "<pieces length=\"{length}\" type=\"sha-256\"><hash>{hash}</hash></pieces>"
            );
            let pieces = parse(&version4(&long), "x").unwrap().pieces;
            assert_eq!(pieces.is_some(), used, "{length}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        assert!(is_named("disk.meta4") && is_named("http://a/d.METALINK?x=1"));
        assert!(!is_named("disk.img") && !is_named("http://a/?f=d.meta4"));
    }
}
