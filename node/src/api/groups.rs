//! What the node shows of groups.

use dht_store::Views;
use dht_store::view::{Definition, EditInfo, GroupInfo};
use p2pinst_api::request::AskingGroup;
use p2pinst_api::view::{GroupDefinition, GroupEditView, GroupState, GroupView};
use p2pinst_types::{Name, codec, limits};

use super::Api;

/// Bytes of groups in one answer: the last may be as large as the roster, and has to fit too.
const PAGE: usize = limits::FRAME / 4;

impl Api {
    /// A page of the groups. Members are worked out for those that are on it only.
    pub(super) fn groups(&self, after: Option<&Name>) -> Vec<GroupView> {
        let views = self.store.views();
        let all = Name::all();
        let built_in = after.is_none().then(|| built_in(&views));
        let from = after.filter(|name| **name != all);
        let own = views.groups.iter().filter(|(name, _)| from.is_none_or(|from| *name > from));
        let own = own.map(|(name, info)| group(&views, name, info));
        let mut bytes = 0;
        built_in
            .into_iter()
            .chain(own)
            .take_while(|view| {
                let room = bytes < PAGE;
                bytes += codec::encode(view).map_or(0, |b| b.len());
                room
            })
            .collect()
    }

    /// Which group would ask for a code at a machine's console.
    pub(super) fn asking_group(&self, ask: &AskingGroup) -> Option<Name> {
        let views = self.store.views();
        let known = (&ask.known.name, &ask.known.site, &ask.known.labels);
        let added = ask.group.clone().filter(|group| asks_for_code(&views, group));
        added.or_else(|| views.asks_for_code(&ask.machine, known).cloned())
    }

    /// One name: the group, or the one that was taken away.
    pub(super) fn one_group(&self, name: &Name) -> GroupState {
        let views = self.store.views();
        let head = views.group_head(name);
        let group = match views.groups.get(name) {
            Some(info) => Some(group(&views, name, info)),
            None => (*name == Name::all()).then(|| built_in(&views)),
        };
        let gone = views.removed_groups.get(name);
        GroupState {
            group,
            removed: gone.map(|info| {
                let GroupInfo { group, author, hlc, .. } = info.clone();
                definition(&views, &Definition { group, author, hlc })
            }),
            concurrent: gone.map(|info| concurrent(&views, info)).unwrap_or_default(),
            after: head.after,
            floor: head.floor,
            clean: head.clean,
        }
    }
}

fn members(views: &Views, group: &Name) -> Vec<Name> {
    let mut names: Vec<Name> = views.members(group).map(|m| m.name.clone()).collect();
    names.sort();
    names
}

fn asks_for_code(views: &Views, group: &Name) -> bool {
    views.policies.get(group).is_some_and(|policy| policy.console_code)
}

fn built_in(views: &Views) -> GroupView {
    let name = Name::all();
    GroupView {
        description: "every machine".to_owned(),
        hosts: None,
        select: None,
        author: None,
        at: None,
        edits: Vec::new(),
        concurrent: Vec::new(),
        members: members(views, &name),
        console_code: asks_for_code(views, &name),
        name,
    }
}

fn group(views: &Views, name: &Name, info: &GroupInfo) -> GroupView {
    let edit = |e: &EditInfo| GroupEditView {
        hosts: e.edit.hosts.to_string(),
        present: e.edit.present,
        author: views.key_name(&e.author).cloned(),
        at: e.hlc.millis(),
    };
    GroupView {
        name: name.clone(),
        description: info.group.description.clone(),
        hosts: info.group.hosts.as_ref().map(ToString::to_string),
        select: info.group.select.as_ref().map(ToString::to_string),
        author: views.key_name(&info.author).cloned(),
        at: Some(info.hlc.millis()),
        edits: info.edits.iter().map(edit).collect(),
        concurrent: concurrent(views, info),
        members: members(views, name),
        console_code: asks_for_code(views, name),
    }
}

fn concurrent(views: &Views, info: &GroupInfo) -> Vec<GroupDefinition> {
    info.concurrent.iter().map(|d| definition(views, d)).collect()
}

fn definition(views: &Views, of: &Definition) -> GroupDefinition {
    GroupDefinition {
        author: views.key_name(&of.author).cloned(),
        at: of.hlc.millis(),
        removed: of.group.removed,
        description: of.group.description.clone(),
        hosts: of.group.hosts.as_ref().map(ToString::to_string),
        select: of.group.select.as_ref().map(ToString::to_string),
    }
}
