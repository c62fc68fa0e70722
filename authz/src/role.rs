//! What users may do: Gaia's roles by Gaia's names, ours beside them, and the groups that hold many.
//!
//! A role's full name is its category and its name, as in Gaia: `PipelineStart`. A user has any number
//! of roles and groups, and may do what any of them allows.

use std::collections::BTreeSet;

/// A heading under which roles are shown.
#[derive(Clone, Copy, Debug)]
pub struct Category {
    pub name: &'static str,
    pub description: &'static str,
    pub roles: &'static [Role],
}

macro_rules! roles {
    ($($category:literal, $about:literal { $($role:ident $name:literal $what:literal,)* })*) => {
        /// One thing that a user may be allowed to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Role {
            $($(#[doc = $what] $role,)*)*
        }

        impl Category {
            /// All of them, in the order in which Gaia shows them.
            pub const ALL: &'static [Self] = &[$(Self {
                name: $category,
                description: $about,
                roles: &[$(Role::$role),*],
            }),*];
        }

        impl Role {
            pub const ALL: &'static [Self] = &[$($(Self::$role),*),*];

            /// The full name: `PipelineStart`.
            pub fn full_name(self) -> &'static str {
                match self { $($(Self::$role => concat!($category, $name),)*)* }
            }

            /// The name within its category: `Start`.
            pub fn name(self) -> &'static str {
                match self { $($(Self::$role => $name,)*)* }
            }

            pub fn description(self) -> &'static str {
                match self { $($(Self::$role => $what,)*)* }
            }
        }
    };
}

roles! {
    "Pipeline", "Managing and initiating pipelines." {
        PipelineCreate "Create" "Create new pipelines.",
        PipelineList "List" "List created pipelines.",
        PipelineGet "Get" "Get created pipelines.",
        PipelineUpdate "Update" "Update created pipelines.",
        PipelineDelete "Delete" "Delete created pipelines.",
        PipelineStart "Start" "Start created pipelines.",
    }
    "PipelineRun", "Managing of pipeline runs." {
        PipelineRunStop "Stop" "Stop running pipelines.",
        PipelineRunGet "Get" "Get pipeline runs.",
        PipelineRunList "List" "List pipeline runs.",
        PipelineRunLogs "Logs" "Get logs for pipeline runs.",
    }
    "Secret", "Managing of stored secrets used within pipelines." {
        SecretList "List" "List created secrets.",
        SecretDelete "Delete" "Delete created secrets.",
        SecretCreate "Create" "Create new secrets.",
        SecretUpdate "Update" "Update created secrets.",
    }
    "User", "Managing of users." {
        UserCreate "Create" "Create new users.",
        UserList "List" "List created users.",
        UserChangePassword "ChangePassword" "Change created users passwords.",
        UserDelete "Delete" "Delete created users.",
    }
    "UserPermission", "Managing of user permissions." {
        UserPermissionGet "Get" "Get created users permissions.",
        UserPermissionUpdate "Update" "Update created users permissions.",
    }
    "Worker", "Managing of worker permissions." {
        WorkerGetRegistrationSecret "GetRegistrationSecret" "Get global worker registration secret.",
        WorkerGetOverview "GetOverview" "Get status overview of all workers.",
        WorkerGetWorker "GetWorker" "Get all worker for the worker overview table.",
        WorkerDeregisterWorker "DeregisterWorker" "Deregister a worker from the Gaia primary instance.",
        WorkerResetWorkerRegisterSecret "ResetWorkerRegisterSecret" "Reset the global worker registration secret.",
        WorkerManage "Manage" "Rename, tag, suspend, resume and drain workers, and see their environment.",
        WorkerEnvironment "Environment" "Set the environment of runs: who may do this can run code in every run.",
        WorkerJoinTokens "JoinTokens" "Create, list and revoke join tokens of workers.",
    }
    "System", "Watching over the whole system." {
        SystemReadEvents "ReadEvents" "Read the event log.",
        SystemReadMetrics "ReadMetrics" "Read the metrics.",
        SystemCertificates "Certificates" "List and revoke certificates, and roll the CA over.",
        SystemArtifacts "Artifacts" "Remove stored binaries that nothing needs.",
    }
}

impl Role {
    /// The role of this full name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|role| role.full_name() == name).copied()
    }
}

/// Many roles under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Everything, also what later versions add. The last user of this group cannot be removed.
    Admin,
    /// Sees everything but who may do what, starts and stops, manages workers; makes and deletes nothing.
    Operator,
    /// Sees pipelines, runs, logs, workers, and the names of secrets and users. Changes nothing.
    ReadOnly,
}

const READ_ONLY: &[Role] = &[
    Role::PipelineList,
    Role::PipelineGet,
    Role::PipelineRunGet,
    Role::PipelineRunList,
    Role::PipelineRunLogs,
    Role::SecretList,
    Role::UserList,
    Role::WorkerGetOverview,
    Role::WorkerGetWorker,
];

const OPERATOR: &[Role] = &[
    Role::PipelineUpdate,
    Role::PipelineStart,
    Role::PipelineRunStop,
    Role::WorkerDeregisterWorker,
    Role::WorkerManage,
    Role::SystemReadEvents,
    Role::SystemReadMetrics,
];

impl Group {
    pub const ALL: &'static [Self] = &[Self::Admin, Self::Operator, Self::ReadOnly];

    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::ReadOnly => "readonly",
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Self::Admin => "Everything, also what later versions add.",
            Self::Operator => "See everything but who may do what, start, stop, manage workers.",
            Self::ReadOnly => "See pipelines, runs, logs and workers, and change nothing.",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|group| group.name() == name).copied()
    }

    pub fn allows(self, role: Role) -> bool {
        match self {
            Self::Admin => true,
            Self::Operator => OPERATOR.contains(&role) || READ_ONLY.contains(&role),
            Self::ReadOnly => READ_ONLY.contains(&role),
        }
    }
}

/// What a user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    roles: BTreeSet<Role>,
    groups: BTreeSet<Group>,
}

impl Grants {
    /// From names of roles and groups. A name that is not known, as of a newer version, allows nothing.
    pub fn of_names<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut grants = Self::default();
        for name in names {
            grants.roles.extend(Role::of_name(name.as_ref()));
            grants.groups.extend(Group::of_name(name.as_ref()));
        }
        grants
    }

    pub fn allow(&self, role: Role) -> bool {
        self.roles.contains(&role) || self.groups.iter().any(|group| group.allows(role))
    }

    /// Something that the others may do and these may not; `None`: there is nothing.
    pub fn lacks(&self, others: &Self) -> Option<&'static str> {
        // An administrator may also do what later versions add.
        if others.groups.contains(&Group::Admin) && !self.groups.contains(&Group::Admin) {
            return Some(Group::Admin.name());
        }
        let mut lacking =
            Role::ALL.iter().filter(|role| others.allow(**role) && !self.allow(**role));
        lacking.next().map(|role| role.full_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_that_was_not_granted() {
        for names in [vec![], vec!["Admin"], vec!["root"], vec![""], vec!["PipelineEverything"]] {
            let grants = Grants::of_names(&names);
            assert!(Role::ALL.iter().all(|role| !grants.allow(*role)), "{names:?}");
        }
        let one = Grants::of_names(["PipelineStart"]);
        assert!(Role::ALL.iter().all(|r| one.allow(*r) == (*r == Role::PipelineStart)));
    }

    #[test]
    fn who_only_reads_gets_no_way_in_and_changes_nothing() {
        let grants = Grants::of_names(["readonly"]);
        let words = ["Create", "Update", "Delete", "Start", "Stop", "Change", "Reset", "Secret"];
        let words =
            words.iter().chain(&["Deregister", "Manage", "Environment", "Token", "Certificates"]);
        for word in words {
            let allowed = Role::ALL.iter().filter(|role| role.name().contains(word));
            let allowed: Vec<_> = allowed.filter(|role| grants.allow(**role)).collect();
            assert!(allowed.is_empty(), "{allowed:?}");
        }
    }

    /// `LD_PRELOAD`, `NODE_OPTIONS` and their like make of a variable a program.
    #[test]
    fn an_operator_brings_no_code_of_their_own_into_runs() {
        let grants = Grants::of_names(["operator"]);
        for role in [Role::WorkerEnvironment, Role::PipelineCreate, Role::WorkerJoinTokens] {
            assert!(!grants.allow(role), "{role:?}");
        }
    }

    #[test]
    fn who_may_do_less_lacks_something() {
        let lacks =
            |own: &[&str], others: &[&str]| Grants::of_names(own).lacks(&Grants::of_names(others));
        let all: Vec<_> = Role::ALL.iter().map(|role| role.full_name()).collect();
        assert_eq!(lacks(&["admin"], &all), None);
        assert_eq!(lacks(&all, &["admin"]), Some("admin"));
        assert_eq!(lacks(&["operator"], &["readonly", "PipelineStart"]), None);
        assert_eq!(lacks(&["readonly"], &["PipelineStart"]), Some("PipelineStart"));
        assert_eq!(lacks(&[], &[]), None);
    }

    #[test]
    fn an_administrator_may_everything() {
        let grants = Grants::of_names(["admin"]);
        assert!(Role::ALL.iter().all(|role| grants.allow(*role)));
    }
}
