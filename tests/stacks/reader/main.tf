# One thing made of what other stacks give out.
variable "reads" {
  type = any
}

resource "terraform_data" "app" {
  input = jsonencode(var.reads)
}

output "seen" {
  value = terraform_data.app.output
}
