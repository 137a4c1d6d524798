from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class GatewaySiteConfig(AppConfig):
    name = "gateway_site"
    verbose_name = "AbstractCore Server"
    default = True


class GatewayAdminConfig(admin_apps.AdminConfig):
    default = False
    default_site = "gateway_site.admin_site.GatewayAdminSite"
