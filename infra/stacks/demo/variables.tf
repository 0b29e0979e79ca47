variable "name" {
  description = "What everything here is called."
  type        = string
  default     = "shop"
}

variable "environment" {
  description = "Suffix of all names."
  type        = string
  default     = "dev"
}

variable "subnets" {
  description = "Name of a subnet => its address range."
  type        = map(string)
  default = {
    a = "10.0.1.0/24"
    b = "10.0.2.0/24"
    c = "10.0.3.0/24"
  }

  validation {
    condition     = alltrue([for range in values(var.subnets) : can(cidrhost(range, 0))])
    error_message = "Each subnet needs an address range such as 10.0.1.0/24."
  }
}

variable "services" {
  description = "Name of a service => how many replicas of which size. A change of size replaces its disk."
  type = map(object({
    replicas = number
    size     = string
  }))
  default = {
    api = { replicas = 2, size = "small" }
    web = { replicas = 1, size = "small" }
  }
}

variable "db_password" {
  description = "Password of the database. Give it as a sealed secret: {\"secret\": \"demo-db-password\"}."
  type        = string
  sensitive   = true
  default     = "only-for-the-demo"
}
