# A small platform that exists only in its state: the built-in provider needs no account, no download and no network.
# It behaves like a real one: ids are known only after apply, a change of size replaces, a secret stays a secret.

locals {
  full_name = "${var.name}-${var.environment}"
}

module "network" {
  source = "./modules/network"

  name    = local.full_name
  subnets = var.subnets
}

module "service" {
  source   = "./modules/service"
  for_each = var.services

  name        = "${local.full_name}-${each.key}"
  replicas    = each.value.replicas
  size        = each.value.size
  network_id  = module.network.id
  subnet_ids  = values(module.network.subnet_ids)
  db_password = var.db_password
}

resource "terraform_data" "release" {
  input = {
    name     = local.full_name
    services = sort(keys(var.services))
  }
}
