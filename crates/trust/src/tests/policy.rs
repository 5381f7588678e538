use std::time::Duration;

use p2pinst_types::record::{Grant, Role, RootDoc};
use p2pinst_types::{Cell, Hlc, Kind};

use crate::fixture::{Lab, START, key, name};
use crate::policy::{
    ChainError, allows, check_cert, check_grant, check_grant_from, cosign, invite_open, roles_for,
};
use crate::{RootChain, SecretKey};

/// A cluster whose root is two of three keys.
fn two_of_three() -> (Lab, [SecretKey; 3]) {
    let keys = [key(61), key(62), key(63)];
    let doc = RootDoc {
        version: 1,
        cluster: name("lab"),
        keys: keys.iter().map(SecretKey::public).collect(),
        threshold: 2,
        nonce: 1,
        standing: None,
    };
    let roots = RootChain::found(&doc, &[&keys[0], &keys[1]]).unwrap();
    let mut lab = Lab::default();
    lab.roots = roots;
    (lab, keys)
}

fn grant() -> Grant {
    let key = key(70).public();
    let roles = [Role::Publisher].into();
    Grant { key, name: name("dora"), roles, not_after: None, cosigned: Vec::new() }
}

fn cell(lab: &mut Lab, by: &SecretKey, grant: &Grant) -> Cell {
    lab.write(by, Kind::GRANT, grant.key.as_bytes(), grant)
}

#[test]
fn two_of_three_root_keys_make_a_grant() {
    let (mut lab, keys) = two_of_three();
    let roots = lab.roots.clone();
    let mut check = |by: &SecretKey, grant: &Grant| {
        let cell = cell(&mut lab, by, grant);
        check_grant(&roots, &cell, grant)
    };
    let alone = grant();
    assert_eq!(check(&keys[0], &alone), Err(ChainError::Grant));
    let cosigned = cosign(&roots, grant(), &keys[1]);
    assert_eq!(check(&keys[0], &cosigned), Ok(()));
    assert_eq!(check(&keys[2], &cosigned), Ok(()));
    // the same key twice is one key
    assert_eq!(check(&keys[1], &cosigned), Err(ChainError::Grant));
    let twice = cosign(&roots, cosigned.clone(), &keys[1]);
    assert_eq!(check(&keys[1], &twice), Err(ChainError::Grant));
    // a stranger does not count, neither as author nor as co-signer
    assert_eq!(check(&key(64), &cosigned), Err(ChainError::Grant));
    let by_stranger = cosign(&roots, grant(), &key(64));
    assert_eq!(check(&keys[0], &by_stranger), Err(ChainError::Grant));
    let both = cosign(&roots, cosign(&roots, grant(), &keys[1]), &keys[2]);
    assert_eq!(check(&key(64), &both), Err(ChainError::Grant));
}

#[test]
fn a_cosignature_is_over_this_grant_in_this_cluster() {
    let (mut lab, keys) = two_of_three();
    let roots = lab.roots.clone();
    let mut more = cosign(&roots, grant(), &keys[1]);
    more.roles.insert(Role::Operator);
    let widened = cell(&mut lab, &keys[0], &more);
    assert_eq!(check_grant(&roots, &widened, &more), Err(ChainError::Grant));
    let elsewhere = cosign(&Lab::default().roots, grant(), &keys[1]);
    let moved = cell(&mut lab, &keys[0], &elsewhere);
    assert_eq!(check_grant(&roots, &moved, &elsewhere), Err(ChainError::Grant));
    let mut many = cosign(&roots, grant(), &keys[1]);
    many.cosigned = vec![many.cosigned[0]; 17];
    let crowded = cell(&mut lab, &keys[0], &many);
    assert_eq!(check_grant(&roots, &crowded, &many), Err(ChainError::Grant));
    // filed under another key than the one that it is for
    let good = cosign(&roots, grant(), &keys[1]);
    let misfiled = lab.write(&keys[0], Kind::GRANT, key(71).public().as_bytes(), &good);
    assert_eq!(check_grant(&roots, &misfiled, &good), Err(ChainError::Grant));
}

#[test]
fn a_grant_ends() {
    let end = START.after(Duration::from_secs(60));
    let grant = Grant { not_after: Some(end), ..grant() };
    let at = |secs| Hlc::at(START.after(Duration::from_secs(secs)));
    assert!(allows(&grant, &[Role::Publisher], at(60)));
    assert!(!allows(&grant, &[Role::Publisher], at(61)));
    assert!(!allows(&grant, &[Role::Operator], at(0)));
    assert!(!allows(&grant, &[], at(0)));
    assert!(allows(&grant, &[Role::Operator, Role::Publisher], at(0)));
}

#[test]
fn roles_are_per_kind() {
    for (kind, roles) in [
        (Kind::RELEASE, &[Role::Publisher][..]),
        (Kind::DEPLOYMENT, &[Role::Operator]),
        (Kind::GROUP, &[Role::Operator]),
        (Kind::INVITE, &[Role::Operator, Role::Enroller]),
        (Kind::GRANT, &[]),
        (Kind(99), &[]),
    ] {
        assert_eq!(roles_for(kind), roles, "{kind}");
    }
}

#[test]
fn a_certificate_is_one_invites() {
    let mut lab = Lab::default();
    let (one, other) = (lab.invite(100, 1), lab.invite(101, 1));
    let node = lab.node(&one, 102, "n1");
    assert_eq!(check_cert(&lab.roots, &one.invite, &node.signed), Ok(node.cert.clone()));
    let roots = &lab.roots;
    assert_eq!(check_cert(roots, &other.invite, &node.signed), Err(ChainError::Cert));
    assert!(check_cert(&Lab::new(1).roots, &one.invite, &node.signed).is_err());
    let mut renamed = node.signed.clone();
    let at = renamed.cert.windows(2).position(|w| w == b"n1").unwrap();
    renamed.cert[at + 1] = b'2';
    assert_eq!(check_cert(roots, &one.invite, &renamed), Err(ChainError::Cert));
    let end = one.invite.not_after;
    assert!(invite_open(&one.invite, end));
    assert!(!invite_open(&one.invite, end.after(Duration::from_millis(1))));
}

/// A key of a former root signs nothing that a later one would have signed.
#[test]
fn grants_are_told_apart_by_the_root_that_signed_them() {
    let mut lab = Lab::default();
    let old = lab.root.clone();
    let before = (lab.operator_grant.clone(), lab.operator_grant.record::<Grant>().unwrap());
    lab.rotate(81, &[&before.0.clone()]);
    let late = cell(&mut lab, &old, &grant());
    let new = lab.root.clone();
    let good = cell(&mut lab, &new, &grant());
    for (cell, grant, any, current) in [
        (&before.0, &before.1, true, false),
        (&late, &grant(), true, false),
        (&good, &grant(), true, true),
    ] {
        assert_eq!(check_grant(&lab.roots, cell, grant).is_ok(), any);
        assert_eq!(check_grant_from(&lab.roots, 2, cell, grant).is_ok(), current);
    }
}
