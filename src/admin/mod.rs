//! HTTP for operators: metrics, health, readiness and the JSON API.
