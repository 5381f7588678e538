use proptest::prelude::*;

use super::*;

/// Figure 4 of "A peer-to-peer architecture for software installation" (Clumpt), to the letter.
const FIGURE_4: &str = r#"
group{
    name = "LSC"
    description = "Room 214 - CT/UFSM"
    machines = {
        host01,
        host02
    }
}
group{
    name = "PAPLE"
    description = "PAPLE Cluster"
    machines = {10.0.0.1-12}
}
"#;

fn read(text: &str) -> Vec<FileGroup> {
    parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn figure_4_works_as_it_is() {
    let groups = read(FIGURE_4);
    let [lsc, paple] = groups.as_slice() else { panic!("{groups:?}") };
    assert_eq!((lsc.name.as_str(), lsc.description.as_str()), ("LSC", "Room 214 - CT/UFSM"));
    let hosts = lsc.hosts.as_ref().unwrap();
    assert!(hosts.contains("host01", &[]) && hosts.contains("host02", &[]));
    assert!(!hosts.contains("host03", &[]) && lsc.select.is_none());
    let range = paple.hosts.as_ref().unwrap();
    assert!(range.contains("x", &["10.0.0.12".parse().unwrap()]));
    assert!(!range.contains("x", &["10.0.0.13".parse().unwrap()]));
    assert_eq!(read(&print(&groups)), groups);
}

#[test]
fn space_and_comments_are_free() {
    let groups = read(
        "\u{feff}# all of them\ngroup{name=a machines={n[1-3,7],/* two */n8//last\n,}} // and\n\
         /* group { name = hidden } */ group\n{\ndescription = \"say \\\"hi\\\" \\\\ \\n\\u{e9}\" \
         name = \"b.c-d_9\" select=\"gpu=true && !old\" machines = { }\n}",
    );
    let [a, b] = groups.as_slice() else { panic!("{groups:?}") };
    assert_eq!(a.hosts.as_ref().unwrap().to_string(), "n[1-3,7],n8");
    assert_eq!((a.name.as_str(), a.description.as_str()), ("a", ""));
    assert_eq!((b.description.as_str(), &b.hosts), ("say \"hi\" \\ \né", &None));
    assert_eq!(b.select.as_ref().unwrap().to_string(), "gpu=true && !old");
    assert_eq!(read(""), []);
    assert_eq!(read(" # nothing\n"), []);
}

#[test]
fn errors_have_line_and_column() {
    for (text, line, column, word) in [
        ("grup {", 1, 1, "\"grup\" stands where a group should begin"),
        ("group {\n  nmae = x\n}", 2, 3, "no option \"nmae\""),
        ("group {\n  name \"x\"\n}", 2, 8, "a ="),
        ("group name = x", 1, 7, "a {"),
        ("# é\n\ngroup {\n  name = \"a b\"\n}", 4, 12, "' ' is not allowed"),
        ("group { name = \"a\\\"b\" }", 1, 18, "not allowed"),
        ("group { name = all }", 1, 16, "built in"),
        ("group { name = \"\" }", 1, 17, "1 to 63"),
        ("group { description = \"x\" }", 1, 1, "no name"),
        ("group { name = x", 1, 1, "never closed"),
        ("group { name = x }\n}", 2, 1, "a }"),
        ("group { name = \"x\n}", 1, 16, "string is never closed"),
        ("group { name = x /* }", 1, 18, "comment is never closed"),
        ("group { name = x name = y }", 1, 18, "twice in one group"),
        ("group{name=x}\ngroup{name=y}\n group { name = x }", 3, 17, "see line 1"),
        ("group { name = x machines = a }", 1, 29, "where a { should"),
        ("group { name = x machines = { a b } }", 1, 33, "a comma or a }"),
        ("group { name = x machines = { a, , b } }", 1, 34, "a comma"),
        ("group { name = x machines = { a, b", 1, 29, "list is never closed"),
        ("group {\n\tname = x\n\tmachines = { a,\n\t\tn[5-1] }\n}", 4, 5, "ends before it begins"),
        ("group { name = x machines = { \"a\", \"n!\" } }", 1, 38, "no host has this character"),
        ("group { name = x machines = { n[1 } }", 1, 32, "this '[' is never closed"),
        ("group { name = x machines = { n[1-60000], m[1-60000] } }", 1, 29, "together"),
        ("group { name = x select = \"a=b && c d\" }", 1, 36, "selector"),
        ("group { name = x description = \"a\\q\" }", 1, 34, "after a \\"),
        ("group { name = x description = \"\\u{d800}\" }", 1, 33, "after a \\"),
        ("group { name = x description = }", 1, 32, "a }"),
    ] {
        let error = parse(text.as_bytes()).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{text}\n{error}");
        assert!(error.reason.contains(word), "{text}\n{error}");
        let shown = error.to_string();
        let rows: Vec<&str> = shown.lines().collect();
        let caret = rows.last().unwrap().chars().count() - 1;
        assert_eq!(caret - 2, column - 1, "{shown}");
    }
}

#[test]
fn the_line_is_shown_and_pointed_at() {
    let error = parse(b"group {\n\tname = gpu!\n}").unwrap_err();
    let want = "line 2, column 12: \"gpu!\" is not a name: '!' is not allowed (letters, digits, '.', \
                '_' and '-', beginning with a letter or digit)\n   name = gpu!\n             ^";
    assert_eq!(error.to_string(), want);
    let long = format!("group {{ name = {} }}", "x".repeat(500));
    let error = parse(long.as_bytes()).unwrap_err();
    assert!(error.text.len() <= 120, "{error}");
    let far = format!("group {{ name = x machines = {{ {}, n[2-1] }} }}", vec!["a"; 900].join(","));
    let error = parse(far.as_bytes()).unwrap_err();
    assert_eq!(error.text.chars().nth(error.pad), Some('2'), "{error}");
}

#[test]
fn files_are_bounded() {
    let big = vec![b' '; limits::GROUP_FILE + 1];
    assert!(parse(&big).unwrap_err().reason.contains("1 MiB"));
    assert_eq!(parse(&big[1..]), Ok(vec![]));
    let many = |n: usize| (0..n).map(|i| format!("group{{name=g{i}}}\n")).collect::<String>();
    assert_eq!(read(&many(limits::GROUPS)).len(), limits::GROUPS);
    let error = parse(many(limits::GROUPS + 1).as_bytes()).unwrap_err();
    assert_eq!((error.line, error.column), (limits::GROUPS + 1, 1), "{error}");
    let words = format!("group {{ name = x description = \"{}\" }}", "é".repeat(513));
    assert!(parse(words.as_bytes()).unwrap_err().reason.contains("1024"));
    let machines =
        format!("group {{ name = x machines = {{ {} }} }}", vec!["host01"; 600].join(","));
    assert!(parse(machines.as_bytes()).unwrap_err().reason.contains("4096"));
    let error = parse(b"group {\n name = \xff }").unwrap_err();
    assert_eq!((error.line, error.column), (2, 9), "{error}");
}

#[test]
fn what_is_printed_is_what_figure_4_shows() {
    let group = FileGroup {
        name: "gpu".parse().unwrap(),
        description: "\"quoted\" \\ \u{1b}[2J\u{202e}".to_owned(),
        hosts: Some("node[01-16,20] , 10.0.0.1-12".parse().unwrap()),
        select: Some("gpu=true".parse().unwrap()),
        comment: "one\ntwo".to_owned(),
    };
    let want = "# one\n# two\ngroup {\n    name = \"gpu\"\n    \
                description = \"\\\"quoted\\\" \\\\ \\u{1b}[2J\\u{202e}\"\n    \
                machines = {node[01-16,20], 10.0.0.1-12}\n    select = \"gpu=true\"\n}\n";
    assert_eq!(print(std::slice::from_ref(&group)), want);
    let back = read(want).remove(0);
    assert!(back.means(&group) && group.means(&back), "{back:?}");
    let other = FileGroup { hosts: Some("10.0.0.1-12,node[01-16,20]".parse().unwrap()), ..back };
    assert!(other.means(&group), "the order of machines means nothing");
    assert!(!FileGroup { hosts: None, ..other.clone() }.means(&group));
    assert!(!FileGroup { description: String::new(), ..other }.means(&group));
}

fn groups() -> impl Strategy<Value = Vec<FileGroup>> {
    let term = prop_oneof![
        "[a-z][a-z0-9.-]{0,12}",
        (0u32..90, 0u32..9).prop_map(|(a, n)| format!("n[{a:03}-{:03},{}]", a + n, a + 200)),
        (1u8..90, 0u8..90).prop_map(|(a, n)| format!("10.0.0.{a}-{}", a + n)),
        (0u8..33).prop_map(|bits| format!("10.1.0.0/{bits}")),
    ];
    let hosts = prop::collection::vec(term, 0..30).prop_map(|terms| {
        let text = terms.join(",");
        (!text.is_empty()).then(|| text.parse::<HostExpr>()).and_then(Result::ok)
    });
    let select = prop::option::of(
        prop_oneof!["[a-z]{1,5}=[a-z0-9]{0,5}", "![a-z]{1,4} && b != c"]
            .prop_map(|s| s.parse().unwrap()),
    );
    let group =
        ("[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}", any::<String>(), hosts, select, any::<String>());
    let group = group.prop_filter_map(
        "names and lengths",
        |(name, description, hosts, select, comment)| {
            let name = Name::try_from(name).ok().filter(|n| *n != Name::all())?;
            let fits = description.len() <= limits::DESCRIPTION;
            fits.then_some(FileGroup { name, description, hosts, select, comment })
        },
    );
    prop::collection::vec(group, 0..8).prop_map(|mut groups| {
        let mut seen = BTreeSet::new();
        groups.retain(|g| seen.insert(g.name.clone()));
        groups
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(groups in groups()) {
        let text = print(&groups);
        let back = parse(text.as_bytes());
        prop_assert!(back.is_ok(), "{}\n{}", back.unwrap_err(), text);
        let back = back.unwrap();
        prop_assert_eq!(back.len(), groups.len());
        for (a, b) in back.iter().zip(&groups) {
            prop_assert!(a.means(b), "{:?}\n{:?}", a, b);
        }
        let plain = |c: char| c == '\n' || !c.is_control();
        prop_assert!(text.chars().all(plain), "{:?}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(
        words in prop::collection::vec(
            prop_oneof![
                Just("group"), Just("{"), Just("}"), Just("name"), Just("="), Just("\""), Just("\n"),
                Just("machines"), Just(","), Just("n[1-2]"), Just("#"), Just("/*"), Just("*/"),
                Just("\\"), Just("é"), Just("\t"), Just(" "), Just("\\u{"), Just("select"),
            ],
            0..40,
        ),
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        for text in [words.concat().into_bytes(), bytes] {
            if let Err(e) = parse(&text) {
                prop_assert!(e.line >= 1 && e.column >= 1 && !e.to_string().is_empty());
            }
        }
    }
}
