output "network_id" {
  description = "Known only after apply."
  value       = module.network.id
}

output "endpoints" {
  description = "Where each service answers."
  value       = { for name, service in module.service : name => service.endpoint }
}

output "replicas" {
  description = "Of all services together."
  value       = sum([for service in var.services : service.replicas])
}

output "connection_strings" {
  description = "Hold the password, so nobody gets to see them here."
  value       = { for name, service in module.service : name => service.connection_string }
  sensitive   = true
}
