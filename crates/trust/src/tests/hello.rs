use p2pinst_types::record::{Grant, Invite, Role, RootDoc, SignedRoot};
use p2pinst_types::{Cell, Kind, PublicKey, codec, limits};
use proptest::prelude::*;

use crate::RootChain;
use crate::fixture::{Invited, Lab, Node, START, key, name};
use crate::hello::{Hello, Presented, Refusal};
use crate::key::Domain;

struct Case {
    lab: Lab,
    invited: Invited,
    node: Node,
    hello: Hello,
}

fn case() -> Case {
    let mut lab = Lab::default();
    let invited = lab.invite(100, 1);
    let node = lab.node(&invited, 101, "n1");
    let hello = lab.hello(&invited, &node, None);
    Case { lab, invited, node, hello }
}

fn judge(roots: &RootChain, hello: &Hello, peer: &PublicKey) -> Result<Presented, Refusal> {
    Hello::verify(&codec::encode(hello).unwrap(), roots, peer)
}

impl Case {
    fn refusal(&self) -> Refusal {
        judge(&self.lab.roots, &self.hello, &self.node.id()).unwrap_err()
    }
}

#[test]
fn a_good_chain_is_presented() {
    let Case { mut lab, invited, node, .. } = case();
    let operator = lab.operator.clone();
    let admission = lab.admit(&operator, &node);
    let hello = lab.hello(&invited, &node, Some(&admission));
    let presented = judge(&lab.roots, &hello, &node.id()).unwrap();
    assert_eq!(presented.cert, node.cert);
    assert_eq!(presented.invite, invited.invite);
    assert_eq!(presented.admission, Some(admission));
    assert_eq!(presented.roots, lab.roots);
    // an expired invite is for the roster to judge: the admission may be older
    assert!(presented.invite.not_after > START);
}

#[test]
fn a_certificate_of_another_cluster_is_refused() {
    let case = case();
    let other = Lab::new(1);
    let refusal = judge(&other.roots, &case.hello, &case.node.id()).unwrap_err();
    assert_eq!(refusal, Refusal::WrongCluster);
}

/// Somebody who knows the cluster's root, which is no secret, and shows a chain of its own.
#[test]
fn a_strangers_chain_is_refused() {
    let ours = case();
    let mut theirs = Lab::new(1);
    let invited = theirs.invite(200, 1);
    let node = theirs.node(&invited, 201, "n1");
    let mut hello = theirs.hello(&invited, &node, None);
    hello.roots = ours.lab.roots.signed().to_vec();
    assert_eq!(judge(&ours.lab.roots, &hello, &node.id()).unwrap_err(), Refusal::NotCertified);
    // with our grant and invite, which a listener may have seen, and its own certificate
    hello.grant = ours.hello.grant.clone();
    assert_eq!(judge(&ours.lab.roots, &hello, &node.id()).unwrap_err(), Refusal::NotCertified);
    hello.invite = ours.hello.invite.clone();
    assert_eq!(judge(&ours.lab.roots, &hello, &node.id()).unwrap_err(), Refusal::NotCertified);
}

/// The chain of a member, shown by somebody who has not its key.
#[test]
fn a_certificate_for_another_key_is_refused() {
    let case = case();
    let thief = key(150).public();
    let refusal = judge(&case.lab.roots, &case.hello, &thief).unwrap_err();
    assert_eq!(refusal, Refusal::NotCertified);
}

#[test]
fn a_certificate_that_asks_for_more_than_the_invite_gives_is_refused() {
    let mut case = case();
    let mut greedy = case.invited.clone();
    greedy.invite.labels.insert(name("gpu"), "true".to_owned().try_into().unwrap());
    let node = case.lab.node(&greedy, 101, "n1");
    case.hello.cert = node.signed;
    assert_eq!(case.refusal(), Refusal::NotCertified);
    let mut elsewhere = case.invited.clone();
    elsewhere.invite.site = name("roof");
    case.hello.cert = case.lab.node(&elsewhere, 101, "n1").signed;
    assert_eq!(case.refusal(), Refusal::NotCertified);
    // many or long addresses
    let mut crowded = case.lab.node(&case.invited, 101, "n1").cert;
    crowded.addrs = vec!["x".to_owned(); limits::ADDRS + 1];
    case.hello.cert =
        crate::policy::sign_cert(&case.lab.roots, &case.invited.key, &crowded).unwrap();
    assert_eq!(case.refusal(), Refusal::NotCertified);
}

#[test]
fn a_grant_without_the_power_to_invite_is_refused() {
    let mut lab = Lab::default();
    let publisher = lab.publisher.clone();
    let invited = lab.invite_by(&publisher, 100, 1);
    let node = lab.node(&invited, 101, "n1");
    let mut hello = lab.hello(&invited, &node, None);
    hello.grant = lab.publisher_grant.bytes().to_vec();
    assert_eq!(judge(&lab.roots, &hello, &node.id()).unwrap_err(), Refusal::NotCertified);
}

#[test]
fn an_enroller_may_invite_until_its_grant_ends() {
    let mut lab = Lab::default();
    let enroller = key(50);
    let end = lab.clock.after(std::time::Duration::from_secs(10));
    let grant = lab.grant_until(enroller.public(), "carol", &[Role::Enroller], Some(end));
    for (n, good) in [(100, true), (110, false)] {
        let invited = lab.invite_by(&enroller, n, 1);
        let node = lab.node(&invited, n + 1, "n1");
        let mut hello = lab.hello(&invited, &node, None);
        hello.grant = grant.bytes().to_vec();
        let judged = judge(&lab.roots, &hello, &node.id());
        assert_eq!(judged.is_ok(), good, "{n}");
        lab.clock = lab.clock.after(std::time::Duration::from_secs(20));
    }
}

#[test]
fn an_invite_by_a_key_without_a_grant_is_refused() {
    let mut lab = Lab::default();
    let nobody = key(50);
    let invited = lab.invite_by(&nobody, 100, 1);
    let node = lab.node(&invited, 101, "n1");
    // with the operator's grant, and with one that it signs itself
    let hello = lab.hello(&invited, &node, None);
    assert_eq!(judge(&lab.roots, &hello, &node.id()).unwrap_err(), Refusal::NotCertified);
    let own = Grant {
        key: nobody.public(),
        name: name("mallory"),
        roles: [Role::Operator].into(),
        not_after: None,
        cosigned: Vec::new(),
    };
    let own = lab.write(&nobody, Kind::GRANT, nobody.public().as_bytes(), &own);
    let hello = Hello { grant: own.bytes().to_vec(), ..hello };
    assert_eq!(judge(&lab.roots, &hello, &node.id()).unwrap_err(), Refusal::NotCertified);
}

#[test]
fn cells_of_another_kind_or_with_a_changed_byte_are_refused() {
    let case = case();
    let grant = case.hello.grant.clone();
    for at in [64, grant.len() / 2, grant.len() - 1] {
        let mut hello = case.hello.clone();
        hello.grant[at] ^= 1;
        let refusal = judge(&case.lab.roots, &hello, &case.node.id()).unwrap_err();
        assert_eq!(refusal, Refusal::NotCertified, "{at}");
    }
    type Change = fn(&mut Hello);
    let changes: [(Change, Refusal); 5] = [
        (|h| std::mem::swap(&mut h.grant, &mut h.invite), Refusal::NotCertified),
        (|h| h.admission = h.invite.clone(), Refusal::NotCertified),
        (|h| h.grant.clear(), Refusal::Malformed),
        (|h| h.invite.truncate(h.invite.len() - 1), Refusal::Malformed),
        (|h| h.admission = vec![1, 2, 3], Refusal::Malformed),
    ];
    for (i, (change, expected)) in changes.into_iter().enumerate() {
        let mut hello = case.hello.clone();
        change(&mut hello);
        let refusal = judge(&case.lab.roots, &hello, &case.node.id()).unwrap_err();
        assert_eq!(refusal, expected, "{i}");
    }
}

/// A grant and an invite whose signatures hold and whose payloads are something else.
#[test]
fn a_payload_that_is_no_record_is_malformed() {
    let mut case = case();
    let at = (case.lab.next(&case.lab.root.public()), case.lab.tick());
    let subject = case.lab.operator.public();
    let junk =
        case.lab.sign(&case.lab.root, (Kind::GRANT, subject.as_bytes()), at, vec![0x81; 8000]);
    let good = std::mem::replace(&mut case.hello.grant, junk.bytes().to_vec());
    assert_eq!(case.refusal(), Refusal::Malformed);
    case.hello.grant = good;
    let subject = case.invited.key.public();
    let junk =
        case.lab.sign(&case.lab.operator, (Kind::INVITE, subject.as_bytes()), at, vec![0xa0]);
    case.hello.invite = junk.bytes().to_vec();
    assert_eq!(case.refusal(), Refusal::Malformed);
}

#[test]
fn malformed_huge_and_deep_messages_are_refused() {
    let case = case();
    let roots = &case.lab.roots;
    let refusal = |bytes: &[u8]| Hello::verify(bytes, roots, &case.node.id()).unwrap_err();
    let good = codec::encode(&case.hello).unwrap();
    let mut trailing = good.clone();
    trailing.push(0);
    for bytes in [
        Vec::new(),
        vec![0xff; 100],
        vec![0x81; limits::HELLO],
        vec![0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        good[..good.len() / 2].to_vec(),
        trailing,
    ] {
        assert_eq!(refusal(&bytes), Refusal::Malformed);
    }
    let crowd = Hello { addrs: vec!["a".to_owned(); limits::ADDRS + 1], ..case.hello.clone() };
    let long = Hello { addrs: vec!["a".repeat(257)], ..case.hello.clone() };
    let boast = Hello { version: "9".repeat(65), ..case.hello.clone() };
    for hello in [crowd, long, boast] {
        assert_eq!(refusal(&codec::encode(&hello).unwrap()), Refusal::Malformed);
    }
    // many roots are refused without verifying them one by one
    let many = vec![case.hello.roots[0].clone(); limits::ROOTS + 1];
    let many = Hello { roots: many, ..case.hello.clone() };
    assert_eq!(refusal(&codec::encode(&many).unwrap()), Refusal::NotCertified);
    let huge = Hello { admission: vec![0; limits::HELLO], ..case.hello.clone() };
    assert!(huge.encode().is_err());
}

/// Two halves of a cluster that have both replaced the root.
#[test]
fn a_fork_is_proved_by_both_roots() {
    let case = case();
    let branch = |new| {
        let mut longer = case.lab.roots.signed().to_vec();
        longer.push(rotated(&case.lab, 2, new, &[new]));
        longer
    };
    let ours = RootChain::verify(*case.lab.cluster(), branch(80)).unwrap();
    let fork =
        |roots| Hello::fork(&codec::encode(&Hello { roots, ..case.hello.clone() }).unwrap(), &ours);
    assert_eq!(fork(branch(81)), Some(2));
    assert_eq!((fork(branch(80)), fork(case.lab.roots.signed().to_vec())), (None, None));
    // a forgery proves nothing
    let mut forged = branch(81);
    forged[1].signatures.remove(0);
    assert_eq!((fork(forged), Hello::fork(b"?", &ours)), (None, None));
}

fn rotated(lab: &Lab, version: u64, new: u16, signers: &[u16]) -> SignedRoot {
    let doc = RootDoc {
        version,
        cluster: name("lab"),
        keys: [key(new).public()].into(),
        threshold: 1,
        nonce: 0,
        standing: None,
    };
    let doc = codec::encode(&doc).unwrap();
    let mut signatures: Vec<_> = signers
        .iter()
        .map(|n| (key(*n).public(), key(*n).sign_in(Domain::Root, None, &doc)))
        .collect();
    let root = lab.root.sign_in(Domain::Root, None, &doc);
    signatures.push((lab.root.public(), root));
    SignedRoot { doc, signatures }
}

/// A machine that slept through a rotation learns of it; one that shows an older chain is fine.
#[test]
fn roots_are_extended_by_the_handshake() {
    let case = case();
    let mut longer = case.lab.roots.signed().to_vec();
    longer.push(rotated(&case.lab, 2, 80, &[80]));
    let known = RootChain::verify(*case.lab.cluster(), longer.clone()).unwrap();
    let ahead = Hello { roots: longer.clone(), ..case.hello.clone() };
    let presented = judge(&case.lab.roots, &ahead, &case.node.id()).unwrap();
    assert_eq!(presented.roots, known);
    let presented = judge(&known, &case.hello, &case.node.id()).unwrap();
    assert_eq!(presented.roots, known);
    // not signed by its own new key; and another version 2 than the one that is known
    let mut forged = case.lab.roots.signed().to_vec();
    forged.push(rotated(&case.lab, 2, 81, &[82]));
    let hello = Hello { roots: forged, ..case.hello.clone() };
    let refusal = judge(&case.lab.roots, &hello, &case.node.id()).unwrap_err();
    assert_eq!(refusal, Refusal::NotCertified);
    let mut fork = case.lab.roots.signed().to_vec();
    fork.push(rotated(&case.lab, 2, 81, &[81]));
    let hello = Hello { roots: fork, ..case.hello.clone() };
    assert_eq!(judge(&known, &hello, &case.node.id()).unwrap_err(), Refusal::NotCertified);
}

/// Whoever was admitted before the root was replaced shows the grant of that time for ever.
#[test]
fn a_chain_of_before_a_rotation_is_presented() {
    let mut case = case();
    let grant = case.lab.operator_grant.clone();
    case.lab.rotate(80, &[&grant]);
    case.lab.rotate(81, &[&grant]);
    let presented = judge(&case.lab.roots, &case.hello, &case.node.id()).unwrap();
    assert_eq!(presented.roots.docs().len(), 3);
}

#[test]
fn every_refusal_has_a_byte_and_words_of_its_own() {
    let mut words = std::collections::BTreeSet::new();
    for (i, refusal) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(refusal as usize, i + 1, "the bytes are frozen");
        assert_eq!(Refusal::from_byte(refusal as u8), Some(refusal));
        assert!(words.insert(refusal.to_string()));
    }
    assert_eq!((Refusal::from_byte(0), Refusal::from_byte(200)), (None, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// No bit of a hello can be changed so that the chain says something else about who it is.
    #[test]
    fn a_changed_byte_never_changes_who_it_is(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let case = case();
        let mut bytes = codec::encode(&case.hello).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(presented) = Hello::verify(&bytes, &case.lab.roots, &case.node.id()) {
            prop_assert_eq!(presented.cert, case.node.cert);
            prop_assert_eq!(presented.invite, case.invited.invite);
        }
    }
}

#[test]
fn fixture_cells_are_what_they_say() {
    let case = case();
    let invite: Invite = case.invited.cell.record().unwrap();
    assert_eq!(invite, case.invited.invite);
    assert!(Cell::parse(case.hello.grant).is_ok());
}

#[test]
fn golden_hello() {
    let mut lab = Lab::default();
    let invited = lab.invite(100, 1);
    let node = lab.node(&invited, 101, "n1");
    let operator = lab.operator.clone();
    let admission = lab.admit(&operator, &node);
    let bytes = lab.hello(&invited, &node, Some(&admission)).encode().unwrap();
    let digest = p2pinst_types::Hash::of(&bytes).to_string();
    assert_eq!(format!("{}:{}", bytes.len(), &digest[..16]), "1456:7dfdce749448b8b5");
}
