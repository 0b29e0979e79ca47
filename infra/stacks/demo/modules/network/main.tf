variable "name" {
  type = string
}

variable "subnets" {
  type = map(string)
}

resource "terraform_data" "network" {
  input = { name = var.name }
}

resource "terraform_data" "subnet" {
  for_each = var.subnets

  input = {
    name    = "${var.name}-${each.key}"
    range   = each.value
    network = terraform_data.network.id
  }
}

resource "terraform_data" "firewall" {
  input = {
    network = terraform_data.network.id
    allowed = [443, 5432]
    sources = values(var.subnets)
  }
}

output "id" {
  value = terraform_data.network.id
}

output "subnet_ids" {
  value = { for name, subnet in terraform_data.subnet : name => subnet.id }
}
