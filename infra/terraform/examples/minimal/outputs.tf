output "superbatch" {
  description = "All that the module says of what it made."
  value       = module.superbatch
}

output "registry" {
  description = "Where images are pushed."
  value       = module.superbatch.registry
}

output "deployment" {
  description = "Where rounds run, by the names that infra/airflow asks for."
  value       = module.superbatch.deployment
}
