//! Creates pipelines from git, has them built, knows their versions and jobs.
