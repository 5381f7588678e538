//! `p2pinst machine import`

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use p2pinst_api::boot::MachineView;
use p2pinst_types::record::Adoption;
use p2pinst_types::{Kind, Labels, Mac, MachineId, Name, limits, name};
use serde::Serialize;

use super::adopt::{clash, default_site};
use crate::args;
use crate::bare::{self, Which};
use crate::commands::roster;
use crate::context::Context;
use crate::error::CliError;
use crate::format;

/// The longest list that is read.
const FILE: u64 = 4 << 20;
/// Wrong lines that are shown.
const SHOWN: usize = 50;
/// The columns; site, labels and controller may be left out.
const COLUMNS: [&str; 5] = ["mac", "name", "site", "labels", "controller"];

/// Take many machines in, from a list
///
/// CSV with a first line that names the columns: mac and name, and if wanted site, labels (a=1 b=2) and controller. A
/// machine with several interfaces has them in one field, with spaces between. Machines that are known by one
/// of these interfaces are changed. Everything that is wrong is shown at once, and then nothing is adopted. What stands
/// in the column controller is checked for blanks alone, and not kept: `p2pinst machine set-power` is for that.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:
  p2pinst machine import rack1.csv
with the list
  mac,name,site,labels
  52:54:00:12:34:56,rack1-01,pisa,gpu=true rack=1
  52:54:00:12:34:57,rack1-02,pisa,rack=1")]
pub(crate) struct ImportArgs {
    /// The list; - for stdin
    file: PathBuf,
    /// Only check it
    #[arg(long)]
    dry_run: bool,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Serialize)]
struct Document {
    machines: Vec<Adoption>,
    dry_run: bool,
    peers: usize,
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    number: usize,
    macs: Vec<Mac>,
    name: Name,
    site: Option<Name>,
    labels: Labels,
}

/// What is wrong, by line.
type Wrong = Vec<(usize, String)>;

/// The fields of a line (RFC 4180, without line breaks in fields).
fn fields(line: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let mut chars = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.trim().is_empty() => {
                field.clear();
                quoted = true;
            }
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    fields.push(field.trim().to_owned());
    if quoted { Err("a quotation mark is not closed".to_owned()) } else { Ok(fields) }
}

/// The columns by name.
fn columns(line: &str) -> Result<Vec<&'static str>, String> {
    let names = fields(line)?;
    let mut columns = Vec::new();
    for name in &names {
        let known = COLUMNS.into_iter().find(|c| c.eq_ignore_ascii_case(name));
        let column = known.ok_or_else(|| {
            format!("there is no column {name:?}; there are {}", COLUMNS.join(", "))
        })?;
        if columns.contains(&column) {
            return Err(format!("the column {column} is there twice"));
        }
        columns.push(column);
    }
    for needed in ["mac", "name"] {
        if !columns.contains(&needed) {
            return Err(format!(
                "the first line names the columns, and {needed} is not among them"
            ));
        }
    }
    Ok(columns)
}

fn one(number: usize, columns: &[&'static str], line: &str) -> Result<Line, String> {
    let fields = fields(line)?;
    if fields.len() != columns.len() {
        let (has, wants) = (fields.len(), columns.len());
        return Err(format!("it has {has} fields, not {wants}"));
    }
    let of: BTreeMap<&str, &str> =
        columns.iter().copied().zip(fields.iter().map(String::as_str)).collect();
    let of = |column: &str| of.get(column).copied().unwrap_or_default();
    let macs: Result<Vec<Mac>, _> = of("mac").split_whitespace().map(str::parse).collect();
    let macs = macs.map_err(|e| e.to_string())?;
    if macs.is_empty() || macs.len() > limits::HARDWARE_NICS {
        return Err(format!("a machine has 1 to {} interfaces", limits::HARDWARE_NICS));
    }
    let labels: Result<Vec<_>, _> =
        of("labels").split([' ', ';']).filter(|l| !l.is_empty()).map(name::parse_label).collect();
    let labels = labels.map_err(|e| e.to_string())?;
    let labels = args::labels(&labels).map_err(|e| e.error)?;
    let site = Some(of("site")).filter(|s| !s.is_empty());
    if of("controller").contains(char::is_whitespace) {
        return Err("the controller's address has a blank in it".to_owned());
    }
    Ok(Line {
        number,
        macs,
        name: of("name").parse().map_err(|e: name::NameError| e.to_string())?,
        site: site.map(str::parse).transpose().map_err(|e: name::NameError| e.to_string())?,
        labels,
    })
}

/// All lines, or everything that is wrong with them.
fn parse(text: &str) -> Result<Vec<Line>, Wrong> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1..).zip(text.lines()).filter(|(_, l)| {
        let l = l.trim();
        !l.is_empty() && !l.starts_with('#')
    });
    let Some((number, first)) = lines.next() else {
        return Err(vec![(1, "the list is empty".to_owned())]);
    };
    let columns = columns(first).map_err(|reason| vec![(number, reason)])?;
    let (mut good, mut wrong): (Vec<Line>, Wrong) = (Vec::new(), Vec::new());
    for (number, line) in lines {
        match one(number, &columns, line) {
            Ok(line) => good.push(line),
            Err(reason) => wrong.push((number, reason)),
        }
    }
    wrong.extend(twice(&good));
    wrong.sort();
    if wrong.is_empty() { Ok(good) } else { Err(wrong) }
}

/// Names and interfaces that two lines have.
fn twice(lines: &[Line]) -> Wrong {
    let mut names: BTreeMap<&Name, usize> = BTreeMap::new();
    let mut macs: BTreeMap<&Mac, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in lines {
        if let Some(first) = names.insert(&line.name, line.number) {
            wrong.push((line.number, format!("{} is in line {first} already", line.name)));
        }
        for mac in &line.macs {
            if let Some(first) = macs.insert(mac, line.number) {
                wrong.push((line.number, format!("{mac} is in line {first} already")));
            }
        }
    }
    wrong
}

/// What each line means beside the machines that there are.
fn adoptions(
    lines: Vec<Line>,
    known: &[MachineView],
) -> Result<Vec<(MachineId, Adoption)>, CliError> {
    let mut wrong: Wrong = Vec::new();
    let mut adoptions = Vec::new();
    for line in lines {
        let before = known.iter().find(|m| m.known.macs.iter().any(|mac| line.macs.contains(mac)));
        let Some(first) = line.macs.first().copied() else { continue };
        let id = before.map_or_else(|| Adoption::machine(first), |m| m.id);
        let site = match (line.site, before) {
            (Some(site), _) => site,
            (None, Some(before)) => before.known.site.clone(),
            (None, None) => default_site()?,
        };
        if let Some(member) = before.filter(|b| b.member.is_some() && b.known.name != line.name) {
            let reason = format!("it is the member {}, which keeps its name", member.known.name);
            wrong.push((line.number, reason));
        }
        let (name, macs, labels) = (line.name, line.macs, line.labels);
        let adoption = Adoption { name, macs, site, labels, removed: false };
        wrong.extend(clash(id, &adoption, known).map(|reason| (line.number, reason)));
        adoptions.push((id, adoption));
    }
    if wrong.is_empty() { Ok(adoptions) } else { Err(refuse(&wrong)) }
}

fn refuse(wrong: &[(usize, String)]) -> CliError {
    let mut text = format!("{} of the list cannot be taken:", format::count(wrong.len(), "line"));
    for (number, reason) in wrong.iter().take(SHOWN) {
        text.push_str(&format!("\n  line {number}: {reason}"));
    }
    if wrong.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", wrong.len() - SHOWN));
    }
    CliError::failed(text).hint("nothing was adopted: correct the list and import it again")
}

fn read(file: &Path) -> Result<String, CliError> {
    let bytes = match file == Path::new("-") {
        true => {
            let mut bytes = Vec::new();
            let read = io::stdin().take(FILE).read_to_end(&mut bytes);
            read.map_err(|e| CliError::failed(format!("cannot read stdin: {e}")))?;
            bytes
        }
        false => p2pinst_files::read(file, FILE)?,
    };
    String::from_utf8(bytes)
        .map_err(|_| CliError::failed(format!("{} is no text in UTF-8", file.display())))
}

pub(super) async fn run(context: &Context, args: ImportArgs) -> Result<(), CliError> {
    let lines = parse(&read(&args.file)?).map_err(|wrong| refuse(&wrong))?;
    let (mut client, info) = context.connect_info().await?;
    let known = bare::machines(&mut client, &Which::default()).await?;
    let adoptions = adoptions(lines, &known)?;
    let mut peers = 0;
    if !args.dry_run {
        let mut signer = roster::operator(context, &mut client, args.key.as_ref(), &info).await?;
        for (id, adoption) in &adoptions {
            signer.add(Kind::ADOPTION, id.as_bytes(), adoption)?;
        }
        peers = signer.submit(&mut client).await?.peers;
    }
    let would = if args.dry_run { "would be" } else { "are" };
    let count = format::count(adoptions.len(), "machine");
    context.tell(format_args!("{count} {would} adopted."));
    if !context.json {
        return Ok(());
    }
    let machines = adoptions.into_iter().map(|(_, a)| a).collect();
    context.print_json(&Document { machines, dry_run: args.dry_run, peers })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\u{feff}mac,name,site,labels,controller\n\
        # rack 1\n\
        52:54:00:12:34:56,n1,pisa,gpu=true rack=1,10.0.0.1\r\n\
        \"525400123457 52-54-00-12-34-58\",n2,,\"a=1;b=2\",\n";

    #[test]
    fn a_list_is_read() {
        let lines = parse(LIST).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].number, lines[0].labels.len()), (3, 2));
        assert_eq!(lines[0].site.as_ref().unwrap().as_str(), "pisa");
        assert_eq!((lines[1].macs.len(), lines[1].labels.len(), &lines[1].site), (2, 2, &None));
        assert_eq!(parse("name,mac\nn1,525400123456\n").unwrap().len(), 1);
        assert_eq!(parse("mac,name\n").unwrap(), []);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let wrong = |text: &str| {
            let wrong = parse(text).unwrap_err();
            wrong.iter().map(|(n, r)| format!("{n}: {r}")).collect::<Vec<_>>().join("\n")
        };
        let all = wrong(
            "mac,name\nxx,n1\n525400123456,n2\n525400123456,n2\n525400123457\n525400123458,../x\n525400123459,\"n4\n",
        );
        for part in [
            "2: ",
            "4: n2 is in line 3",
            "4: 52:54:00:12:34:56 is in line 3",
            "5: it has 1 fields, not 2",
            "6: ",
            "7: a quotation",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert!(wrong("").contains("1: the list is empty"));
        assert!(wrong("mac,nmae\n").contains("no column \"nmae\""));
        assert!(wrong("mac\n").contains("name is not among them"));
        assert!(wrong("mac,name,mac\n").contains("twice"));
        assert!(wrong("mac,name,labels\n525400123456,n1,site=x\n").contains("cannot be a label"));
    }

    proptest::proptest! {
        #[test]
        fn no_list_is_a_panic(text in "\\PC*", rest in "[\\n\",;=a-f0-9: ]{0,200}") {
            let _lines = parse(&text);
            let _more = parse(&format!("mac,name,labels\n{rest}"));
        }
    }
}
