# A chain that stops at a gate: it touches `<world>/<n>.reached` and goes on when `<world>/<n>.open` exists.
variable "world" {
  type = string
}

variable "length" {
  type    = number
  default = 3
}

variable "gate" {
  type    = number
  default = 1
}

resource "terraform_data" "before" {
  input = "first"
}

resource "terraform_data" "gate" {
  depends_on = [terraform_data.before]

  provisioner "local-exec" {
    command = "touch ${var.world}/${var.gate}.reached; until [ -e ${var.world}/${var.gate}.open ]; do sleep 0.05; done"
  }
}

resource "terraform_data" "after" {
  count      = var.length
  depends_on = [terraform_data.gate]
  input      = count.index
}

output "length" {
  value = var.length
}
