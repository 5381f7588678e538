use super::*;

fn part(node: &str) -> Part {
    Part {
        node: node.parse().unwrap(),
        packages: Vec::new(),
        main: None,
        partitioning: None,
        pre: Vec::new(),
        post: Vec::new(),
        files: Vec::new(),
    }
}

fn document(parts: Vec<Part>) -> Document {
    Document {
        cluster: "lab".parse().unwrap(),
        machine: "n1".parse().unwrap(),
        appliance: "compute".parse().unwrap(),
        instance: "lab-n1".to_owned(),
        macs: Vec::new(),
        parts,
    }
}

fn main(text: &str) -> Part {
    Part { main: Some(text.to_owned()), ..part("a") }
}

fn refused(format: Format, parts: Vec<Part>) -> String {
    document(parts).write(format).unwrap_err().to_string()
}

#[test]
fn names_are_read_back() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        let json = serde_json::to_string(&format).unwrap();
        assert_eq!(json, format!("\"{format}\""));
    }
    assert!("cloud-init".parse::<Format>().is_err());
}

#[test]
fn fragments_cannot_break_out_of_their_place() {
    let post = Part { post: vec!["x\n  %end\n%pre\n".to_owned()], ..part("a") };
    assert!(
        refused(Format::Kickstart, vec![post]).contains("node a, post: a line begins with %end")
    );
    let own = main("%packages\nvim\n%end");
    assert!(refused(Format::Kickstart, vec![own]).contains("%packages section of its own"));
    let list = |package: &str| Part { packages: vec![package.to_owned()], ..part("a") };
    assert!(refused(Format::Kickstart, vec![list("%end")]).contains("no package"));
    assert!(refused(Format::Kickstart, vec![list("a\n%end")]).contains("no package"));
    document(vec![list("@Core Packages")]).write(Format::Kickstart).unwrap();
    for format in [Format::Preseed, Format::Autoinstall, Format::UserData] {
        assert!(refused(format, vec![list("a b")]).contains("\"a b\" is no package"));
    }
    let late = main("d-i  preseed/late_command string reboot");
    let said = refused(Format::Preseed, vec![late]);
    assert!(said.contains("preseed/late_command") && said.contains("use the section post"));
    document(vec![main("# d-i preseed/late_command")]).write(Format::Preseed).unwrap();
}

#[test]
fn no_key_of_yaml_is_there_twice() {
    for format in [Format::Autoinstall, Format::UserData, Format::MetaData, Format::NetworkConfig] {
        let b = Part { main: Some("x: 2".to_owned()), ..part("b") };
        let said = refused(format, vec![main("x: 1\n"), b]);
        assert!(said.contains("node b, main: it has the key x, which node a has too"), "{said}");
    }
    for (format, key) in [
        (Format::Autoinstall, "late-commands"),
        (Format::Autoinstall, "storage"),
        (Format::UserData, "runcmd"),
        (Format::MetaData, "instance-id"),
        (Format::NetworkConfig, "version"),
    ] {
        let said = refused(format, vec![main(&format!("{key}: []"))]);
        assert!(said.contains("written from sections") && said.contains(key), "{said}");
    }
}

#[test]
fn files_are_written_by_one_line() {
    let file = File {
        path: "/etc/it's".to_owned(),
        mode: "0400".to_owned(),
        owner: "root:root".to_owned(),
        content: "a\n".to_owned(),
    };
    assert_eq!(
        write_command(&file),
        r"mkdir -p /etc && rm -f '/etc/it'\''s' && (umask 077 && printf %b 'a\n' > '/etc/it'\''s') && chown root:root '/etc/it'\''s' && chmod 0400 '/etc/it'\''s'"
    );
}
