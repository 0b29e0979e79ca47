# One thing per name: other names make and destroy at once, another `born` replaces what stays.
variable "names" {
  type    = set(string)
  default = ["old", "stays"]
}

variable "born" {
  type    = string
  default = "monday"
}

resource "terraform_data" "thing" {
  for_each         = var.names
  input            = each.key
  triggers_replace = each.key == "stays" ? var.born : null
}
