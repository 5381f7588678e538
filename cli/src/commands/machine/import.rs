//! `p2pinst machine import`

mod passwords;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use p2pinst_api::Client;
use p2pinst_api::boot::MachineView;
use p2pinst_api::request::PreparePower;
use p2pinst_api::view::NodeInfo;
use p2pinst_boot::power::controller::Controller as Address;
use p2pinst_boot::power::credentials::Credentials;
use p2pinst_types::hostexpr::HostExpr;
use p2pinst_types::record::Adoption;
use p2pinst_types::{Kind, Labels, Mac, MachineId, Name, PublicKey, limits, name};
use serde::Serialize;

use self::passwords::Passwords;
use super::adopt::{clash, default_site};
use crate::args;
use crate::bare::{self, Which};
use crate::commands::{power, roster};
use crate::context::Context;
use crate::error::CliError;
use crate::format;

/// The longest list that is read.
const FILE: u64 = 4 << 20;
/// Wrong lines that are shown.
const SHOWN: usize = 50;
/// The columns; all but the first two may be left out.
const COLUMNS: [&str; 6] = ["mac", "name", "site", "labels", "controller", "user"];
/// Columns that people may think of, and that would show a secret to all who read the list.
const SECRETS: [&str; 4] = ["password", "passwd", "pass", "secret"];

/// Take many machines in, from a list
///
/// CSV with a first line that names the columns: mac and name, and if wanted site, labels (a=1 b=2), controller and user.
/// A machine with several interfaces has them in one field, with spaces between. Machines that are known by one
/// of these interfaces are changed. Everything that is wrong is shown at once, and then nothing is adopted.
///
/// A controller is written as `p2pinst power set` takes it, and does the same; where the field is empty, the machine keeps the one
/// that it has. Passwords never stand in the list: they come from files that only their owner may read, and are
/// sealed to the nodes with the power role.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:
  p2pinst machine import rack1.csv --user admin --password-file FILE
with the list
  mac,name,site,labels,controller
  52:54:00:12:34:56,rack1-01,pisa,gpu=true rack=1,ipmi://10.0.1.1
  52:54:00:12:34:57,rack1-02,pisa,rack=1,wol://")]
pub(crate) struct ImportArgs {
    /// The list; - for stdin
    file: PathBuf,
    /// The user at the controllers, where the list names none
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The password of all controllers: the first line of a file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Passwords of single machines' controllers: a file with lines NAME=PASSWORD
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Only check it
    #[arg(long)]
    dry_run: bool,
    /// The operator's key that signs [default: the only one that may]
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Serialize)]
struct Document {
    machines: Vec<Imported>,
    dry_run: bool,
    peers: usize,
}

#[derive(Serialize)]
struct Imported {
    #[serde(flatten)]
    adoption: Adoption,
    /// The controller that the list names.
    controller: Option<String>,
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    number: usize,
    macs: Vec<Mac>,
    name: Name,
    site: Option<Name>,
    labels: Labels,
    controller: Option<Switch>,
}

/// By what a machine is switched.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Switch {
    address: Address,
    credentials: Option<Credentials>,
}

/// What a line means.
#[derive(Debug)]
struct Machine {
    id: MachineId,
    adoption: Adoption,
    controller: Option<Switch>,
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
        if SECRETS.iter().any(|secret| secret.eq_ignore_ascii_case(name)) {
            return Err(format!(
                "passwords do not belong into the list, where others read them (the column {name}): \
                 --password-file FILE has one for all, --env-file FILE those of single machines"
            ));
        }
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

fn one(
    number: usize,
    columns: &[&'static str],
    line: &str,
    passwords: &Passwords,
) -> Result<Line, String> {
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
    let name: Name = of("name").parse().map_err(|e: name::NameError| e.to_string())?;
    let user = Some(of("user")).filter(|u| !u.is_empty());
    let controller = match (of("controller"), user) {
        ("", Some(_)) => return Err("a user is named, and no controller".to_owned()),
        ("", None) => None,
        (address, user) => {
            let address: Address = address.parse().map_err(|e| format!("{e}"))?;
            let credentials = passwords.of(&name, &address, user)?;
            Some(Switch { address, credentials })
        }
    };
    let site = site.map(str::parse).transpose().map_err(|e: name::NameError| e.to_string())?;
    Ok(Line { number, macs, name, site, labels, controller })
}

/// All lines, or everything that is wrong with them.
fn parse(text: &str, passwords: &Passwords) -> Result<Vec<Line>, Wrong> {
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
        match one(number, &columns, line, passwords) {
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
fn adoptions(lines: Vec<Line>, known: &[MachineView]) -> Result<Vec<Machine>, CliError> {
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
        let (name, macs, labels, controller) = (line.name, line.macs, line.labels, line.controller);
        let adoption = Adoption { name, macs, site, labels, removed: false };
        wrong.extend(clash(id, &adoption, known).map(|reason| (line.number, reason)));
        adoptions.push(Machine { id, adoption, controller });
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
    let ImportArgs { user, password_file, env_file, .. } = &args;
    let passwords =
        Passwords::read(user.as_deref(), password_file.as_deref(), env_file.as_deref())?;
    let lines = parse(&read(&args.file)?, &passwords).map_err(|wrong| refuse(&wrong))?;
    let (mut client, info) = context.connect_info().await?;
    let known = bare::machines(&mut client, &Which::default()).await?;
    let machines = adoptions(lines, &known)?;
    let nodes = openers(&mut client, &info, &machines).await?;
    let mut peers = 0;
    if !args.dry_run {
        let mut signer = roster::operator(context, &mut client, args.key.as_ref(), &info).await?;
        for machine in &machines {
            let id = machine.id;
            signer.add(Kind::ADOPTION, id.as_bytes(), &machine.adoption)?;
            let Some(Switch { address, credentials }) = &machine.controller else { continue };
            let (line, both) = (address.to_string(), credentials.as_ref());
            let controller = power::record(&info.cluster, &id, &line, both, &nodes)?;
            signer.add(Kind::CONTROLLER, id.as_bytes(), &controller)?;
        }
        peers = signer.submit(&mut client).await?.peers;
    }
    let would = if args.dry_run { "would be" } else { "are" };
    let count = format::count(machines.len(), "machine");
    let switched = machines.iter().filter(|m| m.controller.is_some()).count();
    let switched = match switched {
        0 => String::new(),
        some => format!(", {} named", format::count(some, "controller")),
    };
    context.tell(format_args!("{count} {would} adopted{switched}."));
    if !context.json {
        return Ok(());
    }
    let machines = machines.into_iter().map(|m| Imported {
        adoption: m.adoption,
        controller: m.controller.map(|c| c.address.to_string()),
    });
    context.print_json(&Document { machines: machines.collect(), dry_run: args.dry_run, peers })
}

/// Who will open the passwords of a list, where there are any.
async fn openers(
    client: &mut Client,
    info: &NodeInfo,
    machines: &[Machine],
) -> Result<BTreeSet<PublicKey>, CliError> {
    let secret = |m: &&Machine| m.controller.as_ref().is_some_and(|c| c.credentials.is_some());
    let Some(first) = machines.iter().find(secret) else { return Ok(BTreeSet::new()) };
    let hosts: HostExpr = first.adoption.name.as_str().parse().map_err(CliError::failed)?;
    // nobody orders anything
    let nodes = client.call(PreparePower { hosts, author: info.id.0 }).await?.nodes;
    match power::without_role(&nodes) {
        Some(error) => Err(error.hint("nothing was adopted")),
        None => Ok(nodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\u{feff}mac,name,site,labels,controller\n\
        # rack 1\n\
        52:54:00:12:34:56,n1,pisa,gpu=true rack=1,qmp:///run/n1.qmp\r\n\
        \"525400123457 52-54-00-12-34-58\",n2,,\"a=1;b=2\",\n";

    fn parse(text: &str) -> Result<Vec<Line>, Wrong> {
        super::parse(text, &Passwords::default())
    }

    #[test]
    fn a_list_is_read() {
        let lines = parse(LIST).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].number, lines[0].labels.len()), (3, 2));
        assert_eq!(lines[0].site.as_ref().unwrap().as_str(), "pisa");
        assert_eq!((lines[1].macs.len(), lines[1].labels.len(), &lines[1].site), (2, 2, &None));
        assert_eq!(parse("name,mac\nn1,525400123456\n").unwrap().len(), 1);
        assert_eq!(parse("mac,name\n").unwrap(), []);
        let address = lines[0].controller.as_ref().unwrap().address.to_string();
        assert_eq!((address.as_str(), &lines[1].controller), ("qmp:///run/n1.qmp", &None));
    }

    #[test]
    fn controllers_are_told_what_the_list_and_the_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            p2pinst_files::write(&path, text.as_bytes(), p2pinst_files::Access::Private).unwrap();
            path
        };
        let (all, named) = (write("all", "for all\nmore\n"), write("env", "n2=for n2\n"));
        let passwords = Passwords::read(Some("admin"), Some(&all), Some(&named)).unwrap();
        let list = "mac,name,controller,user\n\
            525400000001,n1,ipmi://10.0.0.1,\n\
            525400000002,n2,redfish://bmc2,root\n\
            525400000003,n3,command:/sbin/pdu {action} {mac},\n";
        let lines = super::parse(list, &passwords).unwrap();
        let both = |at: usize| lines[at].controller.clone().unwrap().credentials;
        let is = |user: &str, word: &str| Credentials::new(user.into(), word.into()).ok();
        assert_eq!((both(0), both(1)), (is("admin", "for all"), is("root", "for n2")));
        assert_eq!(both(2), None);
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
        let all = wrong(
            "mac,name,controller,user\n525400000001,n1,10.0.0.1,\n525400000002,n2,ipmi://a,\n525400000003,n3,ipmi://a,u\n525400000004,n4,,u\n",
        );
        for part in [
            "2: \"10.0.0.1\" names no",
            "3: this controller asks",
            "4: the password of u",
            "5: a user is named",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        let secret = wrong("mac,name,Password\n525400000001,n1,geheim\n");
        assert!(secret.contains("--password-file") && !secret.contains("geheim"), "{secret}");
    }

    proptest::proptest! {
        #[test]
        fn no_list_is_a_panic(text in "\\PC*", rest in "[\\n\",;=a-f0-9: ]{0,200}") {
            let _lines = parse(&text);
            let _more = parse(&format!("mac,name,labels\n{rest}"));
        }
    }
}
